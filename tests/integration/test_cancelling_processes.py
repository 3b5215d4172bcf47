"""Cancelling from another process, and through the death of the worker."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import partial

import anyio
import pytest

from tests.integration.support import CHAT, chat, fields_of, put, state_of
from worker_core._bullmq.keys import QueueKeys
from worker_core.client import CancelOutcome, JobRef, SyncClient
from worker_core.testing.fake_engine import RequestOutcome
from worker_core.testing.polling import eventually_async

WISHES = QueueKeys("bull", CHAT).wishes
SOON = timedelta(seconds=20)

CONFIG = """\
[queue]
lock_duration = "2s"
lock_renew_time = "1s"
stalled_interval = "500ms"
"""


@pytest.fixture
def start(start_process, fake_engine, tmp_path):
    """Start a worker for chat jobs, in a process of its own, on an engine that streams for ever."""
    fake_engine.behaviour = type(fake_engine.behaviour)(
        loaded=("llama3",), parallel=4, tokens=100_000, token_seconds=0.01
    )
    config = tmp_path / "worker.toml"
    config.write_text(CONFIG)

    async def start_ready():
        process = start_process(
            *("--plugins", "chat", "--engine", "ollama", "--config", str(config)),
            environment={"OLLAMA_BASE_URL": fake_engine.url},
        )
        await anyio.to_thread.run_sync(process.wait_ready)
        return process

    return start_ready


def streams(engine):
    """The chats that the engine has seen, loads left out."""
    return [one for one in engine.log.select("/api/chat") if one.chunks]


async def streaming(engine, count=1):
    await engine.log.wait_until(
        lambda _: sum(one.chunks > 3 for one in streams(engine)) == count, within=20
    )


async def test_a_cancel_from_another_process_stops_the_generation_within_100_ms(
    valkey, fake_engine, start
):
    await start()
    took = []
    with SyncClient(valkey.url) as client:
        for number in range(1, 6):
            job_id = put(valkey.client, CHAT, chat("for ever"))
            await streaming(fake_engine, number)
            began = time.monotonic()
            outcome = await anyio.to_thread.run_sync(client.cancel, JobRef(job_id, CHAT))
            assert outcome is CancelOutcome.REQUESTED
            await fake_engine.log.wait_until(lambda log: log.in_flight == 0)
            took.append(streams(fake_engine)[-1].ended - began)
            await eventually_async(
                lambda job_id=job_id: state_of(valkey.client, job_id, CHAT) == "failed"
            )
    assert {one.outcome for one in streams(fake_engine)} == {RequestOutcome.DISCONNECTED}
    # Of five, so that a machine that is busy with something else for a moment does not count.
    assert sorted(took)[2] < 0.1, took
    await eventually_async(lambda: not valkey.client.exists(WISHES))


async def test_a_cancel_while_the_worker_is_killed_and_started_again_takes(
    valkey, fake_engine, start
):
    redis = valkey.client
    worker = await start()
    job_id = put(redis, CHAT, chat("for ever"), attempts=3)
    await streaming(fake_engine)
    worker.kill()
    with SyncClient(valkey.url) as client:
        outcome = await anyio.to_thread.run_sync(client.cancel, JobRef(job_id, CHAT))
        # Its lock has not run out: nobody knows that its worker is gone.
        assert outcome is CancelOutcome.REQUESTED
        await start()
        ended = partial(client.cancel, JobRef(job_id, CHAT), wait=SOON)
        await eventually_async(lambda: state_of(redis, job_id, CHAT) == "failed", within=20)
        assert await anyio.to_thread.run_sync(ended) is CancelOutcome.FINISHED
    assert fields_of(redis, job_id, CHAT)["failedReason"] == "cancelled"
    assert len(streams(fake_engine)) == 1
    await eventually_async(lambda: not redis.exists(WISHES))


async def test_of_a_worker_that_is_dead_for_sure_the_job_is_cancelled_at_once(
    valkey, fake_engine, start
):
    redis = valkey.client
    worker = await start()
    job_id = put(redis, CHAT, chat("for ever"))
    await streaming(fake_engine)
    worker.kill()
    await eventually_async(lambda: not redis.exists(f"bull:{CHAT}:{job_id}:lock"))
    with SyncClient(valkey.url) as client:
        outcome = await anyio.to_thread.run_sync(client.cancel, JobRef(job_id, CHAT))
    assert (outcome, redis.exists(WISHES)) == (CancelOutcome.CANCELLED, 0)

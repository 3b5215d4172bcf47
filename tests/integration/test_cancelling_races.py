"""Wishes that are late or stand beside a job that cannot be cancelled, and cancellers that are stopped."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from tests.chaos.gate import run_gate
from tests.integration.support import (
    PROBE,
    Ledger,
    fields_of,
    locks,
    probe,
    put,
    running,
    state_of,
)
from worker_core import Outcome
from worker_core._bullmq.keys import QueueKeys
from worker_core.client import CancelOutcome, JobRef, SyncClient, open_client
from worker_core.testing.polling import eventually_async

KEYS = QueueKeys("bull", PROBE)
WISHES = KEYS.wishes
HOUR = timedelta(hours=1)
MINE = JobRef("mine", PROBE)
QUICK = {"queue": {"stalled_interval": "200ms"}}


@pytest.fixture
async def gate(valkey):
    async with anyio.create_task_group() as tasks:
        yield await tasks.start(run_gate, valkey.server.port)
        tasks.cancel_scope.cancel()


def wish(redis, job_id):
    redis.hset(WISHES, job_id, redis.hget(KEYS.job(job_id), "timestamp"))


async def test_a_wish_told_late_does_not_stop_a_later_job_of_the_same_id(valkey):
    """A message may be seconds on its way, and "stop" is often followed by "once more"."""
    redis, ledger = valkey.client, Ledger()
    async with running(valkey.url, probe(ledger)):
        put(redis, PROBE, {"seconds": 0.3}, job_id="mine")
        await eventually_async(lambda: ledger.began)
        # What the wish for the job before it was told with.
        assert redis.publish(WISHES, "mine") == 1
        await eventually_async(lambda: ledger.outcomes)
    assert ledger.outcomes == [("mine", Outcome.COMPLETED)]


async def test_a_review_that_takes_long_does_not_cancel_a_later_job_of_the_same_id(valkey, gate):
    redis, ledger = valkey.client, Ledger()
    put(redis, PROBE, {}, job_id="mine", delay=HOUR, keep_failed=0)
    wish(redis, "mine")
    with SyncClient(valkey.url) as client:
        gate.hold("reviewWishes")
        async with running(gate.url, probe(ledger), QUICK):
            await eventually_async(lambda: gate.calls["reviewWishes"] == 1)
            # It knows that the wish stands. By now that is over, and the id is used again.
            assert client.cancel(MINE) is CancelOutcome.CANCELLED
            put(redis, PROBE, {}, job_id="mine", delay=HOUR)
            gate.release()
            await eventually_async(lambda: gate.calls["beginCancel"] == 1)
            await eventually_async(lambda: gate.calls["reviewWishes"] == 2)
            assert state_of(redis, "mine") == "delayed"
    assert not redis.exists(WISHES)


@pytest.mark.parametrize("at", ["beginCancel", "moveToFinished", "endCancel"])
async def test_a_canceller_that_is_stopped_half_way_goes_to_the_end(valkey, gate, at):
    """Left there, the job would be nobody's until a lock has run out, and then run too early."""
    redis = valkey.client
    job_id = put(redis, PROBE, {}, delay=HOUR)
    async with open_client(gate.url) as client, anyio.create_task_group() as tasks:
        gate.hold(at)
        tasks.start_soon(client.cancel, JobRef(job_id, PROBE))
        await eventually_async(lambda: gate.calls[at] == 1)
        tasks.cancel_scope.cancel()
        gate.release()
    assert (state_of(redis, job_id), fields_of(redis, job_id)["failedReason"]) == (
        *("failed", "cancelled"),
    )
    assert (redis.exists(WISHES), locks(redis)) == (0, [])

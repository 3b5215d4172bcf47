"""`worker-core jobs cancel` against a real server."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial

import anyio
import pytest
from click.testing import CliRunner

from tests.integration.support import PROBE, probe, put, running, state_of
from tests.integration.test_stalled import claim_as_ghost
from worker_core._bullmq.keys import QueueKeys
from worker_core.cli.jobs import command
from worker_core.testing.polling import eventually_async


@pytest.fixture
def cancel(valkey, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", valkey.url)

    def run(*arguments):
        return CliRunner().invoke(command, ["cancel", "--queue", PROBE, *arguments])

    return run


def test_it_says_what_became_of_each_job(valkey, cancel):
    redis = valkey.client
    ended = put(redis, PROBE, {})
    assert cancel(ended).exit_code == 0
    waits, later = put(redis, PROBE, {}), put(redis, PROBE, {}, delay=timedelta(hours=1))
    ran = cancel(waits, "nope", ended, later)
    assert ran.stdout.splitlines() == [
        f"job {waits} on probe is cancelled",
        f"job {ended} on probe had ended already, and is left as it is",
        f"job {later} on probe is cancelled",
    ]
    assert (ran.exit_code, ran.stderr) == (1, "error: job nope on probe does not exist\n")


def test_json_is_a_line_for_each(valkey, cancel):
    job_id = put(valkey.client, PROBE, {})
    ran = cancel(job_id, "nope", "--json")
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [
        {"id": job_id, "queue": PROBE, "outcome": "cancelled"},
        {"id": "nope", "queue": PROBE, "outcome": "unknown"},
    ]
    assert ran.exit_code == 1


async def test_of_a_running_job_the_worker_is_told_and_its_end_may_be_awaited(valkey, cancel):
    redis = valkey.client
    told, awaited = (put(redis, PROBE, {"do": "hang"}) for _ in range(2))
    async with running(valkey.url, probe()):
        await eventually_async(lambda: state_of(redis, awaited) == "active")
        # The worker runs in this process too, and its log goes to the same output.
        ran = await anyio.to_thread.run_sync(cancel, told)
        assert f"job {told} on probe is being cancelled: its worker has been told\n" in ran.stdout
        ran = await anyio.to_thread.run_sync(partial(cancel, awaited, "--wait"))
        assert f"job {awaited} on probe is cancelled\n" in ran.stdout
        assert ran.exit_code == 0


async def test_a_job_that_does_not_end_in_time_is_an_error(valkey, cancel):
    job_id = put(valkey.client, PROBE, {"do": "ignore", "seconds": 1})
    async with running(valkey.url, probe()):
        await eventually_async(lambda: state_of(valkey.client, job_id) == "active")
        ran = await anyio.to_thread.run_sync(partial(cancel, job_id, "--wait", "--timeout", "50ms"))
    assert ran.exit_code == 1
    assert "did not end within 50ms" in ran.stderr


async def test_one_that_takes_its_time_keeps_none_of_the_others_from_being_told(valkey, cancel):
    redis = valkey.client
    slow = put(redis, PROBE, {"do": "ignore", "seconds": 3})
    quick = put(redis, PROBE, {"do": "hang"})
    async with running(valkey.url, probe()):
        await eventually_async(lambda: state_of(redis, quick) == "active")
        ran = await anyio.to_thread.run_sync(
            partial(cancel, slow, quick, "nope", "--wait", "--timeout", "500ms")
        )
        assert state_of(redis, slow) == "active"
    assert f"job {quick} on probe is cancelled\n" in ran.stdout
    assert ran.exit_code == 1
    assert ran.stderr == (
        "error: job nope on probe does not exist\n"
        f"job {slow} on probe did not end within 500ms; it goes on\n"
    )


async def test_one_that_ends_before_the_wish_reaches_it_had_ended(valkey, cancel):
    """Nobody stops a job whose worker does not hear: a Node worker's, say."""
    redis = valkey.client
    claimed = put(redis, PROBE, {})
    claim_as_ghost(redis, lock_ms=60_000)
    call = partial(cancel, claimed, "--wait")
    async with anyio.create_task_group() as tasks:
        ran = []

        async def run():
            ran.append(await anyio.to_thread.run_sync(call))

        tasks.start_soon(run)
        await eventually_async(lambda: redis.exists(QueueKeys("bull", PROBE).wishes))
        redis.lrem(f"bull:{PROBE}:active", 1, claimed)
        redis.hset(f"bull:{PROBE}:{claimed}", mapping={"returnvalue": "null", "finishedOn": 1})
        redis.zadd(f"bull:{PROBE}:completed", {claimed: 1})
        redis.xadd(f"bull:{PROBE}:events", {"event": "completed", "jobId": claimed})
    assert ran[0].stdout == f"job {claimed} on probe had ended already, and is left as it is\n"
    assert ran[0].exit_code == 0

"""What a job type says of its job besides its answer: delay me, hold the queue back."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from tests.conformance.support import processor
from tests.integration.support import PROBE, running, state_of
from worker_core import DelayJob, JobEvent, Outcome, QueueSpec, RateLimit, RateLimited, hookimpl
from worker_core.testing.polling import eventually_async
from worker_core.testing.workers import plugin_under_test

HALF_A_SECOND = timedelta(milliseconds=500)


def observed(plugin, outcomes):
    """The same plugin, whose jobs' outcomes are written down."""

    class Observed(plugin.cls):  # type: ignore[misc, name-defined]
        @hookimpl
        def worker_core_job_event(self, event: JobEvent) -> None:
            if event.outcome is not None:
                outcomes.append(event.outcome)

    return plugin_under_test("observed", Observed)


async def test_a_job_that_puts_itself_off_runs_again_later_and_spends_no_attempt(valkey, app):
    async def later(request, context):
        runs.append(context.job.attempt)
        if len(runs) == 1:
            raise DelayJob(HALF_A_SECOND)
        return "now"

    runs, outcomes = [], []
    events = await app.listen(PROBE)
    async with running(valkey.url, observed(processor(later), outcomes)):
        job_id = await app.add_one(PROBE)
        ended = await events.wait_for("completed", job_id)
    assert ended["returnvalue"]["answer"] == "now"
    assert runs == [1, 1]
    [delayed] = events.of("delayed", job_id)
    first, second = events.of("active", job_id)
    assert 400 <= int(delayed["delay"]) - first["at"] <= 900
    assert 450 <= second["at"] - first["at"] <= 1500
    job = await app.job(PROBE, job_id)
    assert (job["attemptsStarted"], job["attemptsMade"]) == (2, 1)
    assert outcomes == [Outcome.DELAYED, Outcome.COMPLETED]
    assert "failedReason" not in job


@pytest.mark.parametrize("delay", [timedelta(), timedelta(milliseconds=20)], ids=str)
async def test_jobs_that_put_themselves_off_for_ever_keep_no_stop_waiting(valkey, app, delay):
    async def never_now(request, context):
        runs.append(context.job.id)
        raise DelayJob(delay)

    runs = []
    async with running(valkey.url, processor(never_now)) as worker:
        ids = await app.add(PROBE, *[{"data": {}}] * 8)
        await eventually_async(lambda: len(runs) > 30)
        await worker.stop(within=3)
    assert {state_of(valkey.client, job_id) for job_id in ids} <= {"delayed", "wait"}
    assert not list(valkey.client.scan_iter("*:lock"))


@pytest.mark.parametrize(
    "limit", [None, RateLimit(max=50, duration=timedelta(milliseconds=10))], ids=["none", "own"]
)
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_job_that_finds_a_limit_holds_its_queue_back(valkey, app, limit, concurrency):
    """Also where the worker has no limit of its own, and BullMQ's scripts look for none."""

    async def limited_once(request, context):
        runs.append((anyio.current_time(), request.n))
        if len(runs) == 1:
            raise RateLimited(HALF_A_SECOND)
        return request.n

    runs, outcomes = [], []
    events = await app.listen(PROBE)
    await app.call(PROBE, "pause")
    ids = await app.add(PROBE, *[{"data": {"n": n}} for n in range(3)])
    spec = QueueSpec(PROBE, concurrency=concurrency, limit=limit)
    async with running(valkey.url, observed(processor(limited_once, spec), outcomes)):
        # One job alone: what other slots had begun by then is not held back.
        if concurrency > 1:
            await app.call(PROBE, "setGlobalConcurrency", 1)
        await app.call(PROBE, "resume")
        await events.wait_for("completed", count=3)
    assert runs[1][0] - runs[0][0] >= 0.45
    assert runs[1][0] - runs[0][0] < 1.5
    assert [n for _, n in runs] == [0, 0, 1, 2], "it is first again"
    job = await app.job(PROBE, ids[0])
    assert (job["attemptsStarted"], job["attemptsMade"]) == (2, 1)
    assert outcomes[0] is Outcome.RATE_LIMITED


async def test_a_limit_that_a_job_finds_holds_back_other_workers_with_a_limit(valkey, app):
    async def limited(request, context):
        raise RateLimited(timedelta(milliseconds=800))

    events = await app.listen(PROBE)
    spec = QueueSpec(PROBE, limit=RateLimit(max=100, duration=timedelta(milliseconds=10)))
    async with running(valkey.url, processor(limited, spec)) as worker:
        job_id = await app.add_one(PROBE)
        await events.wait_for("active", job_id)
        await eventually_async(lambda: valkey.client.pttl(f"bull:{PROBE}:limiter") > 100)
        await worker.stop(within=3)
    await app.work(PROBE, limiter={"max": 100, "duration": 10})
    await events.wait_for("completed", job_id)
    ours, nodes = events.of("active", job_id)
    assert nodes["at"] - ours["at"] >= 700


async def test_a_failure_beside_a_signal_counts(valkey, app):
    async def both(request, context):
        raise ExceptionGroup("both", [DelayJob(HALF_A_SECOND), ValueError("broken")])

    events = await app.listen(PROBE)
    async with running(valkey.url, processor(both)):
        ended = await events.wait_for("failed", await app.add_one(PROBE))
    assert ended["failedReason"] == "ValueError: broken"

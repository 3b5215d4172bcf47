"""Rates and concurrency: the worker's own, the queue's, and those that a job finds out about."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from tests.conformance.reference import peer, symptom
from tests.conformance.support import BASE, count_in, processor
from tests.integration.support import PROBE, probe, running
from worker_core import QueueSpec, RateLimit, RateLimited
from worker_core._runtime import consumer
from worker_core.testing.polling import eventually_async

MANY_SLOTS = {"worker": {"concurrency": 5}}


def began_at(events):
    """When each job began, by the server's clock."""
    return [line["at"] for line in events.of("active")]


@symptom("limiter + concurrency stuck")
@pytest.mark.parametrize("whose", ["the worker's", "the queue's"])
async def test_a_backlog_under_a_rate_limit_runs_to_its_end(valkey, node, whose):
    jobs, most, window_ms = 12, 2, 300
    spec = QueueSpec(PROBE)
    if whose == "the worker's":
        spec = QueueSpec(
            PROBE, limit=RateLimit(max=most, duration=timedelta(milliseconds=window_ms))
        )
    else:
        await node.call(PROBE, "setGlobalRateLimit", most, window_ms)

    async def short(request, context):
        await anyio.sleep(0.02)

    events = await node.listen(PROBE)
    await node.add(PROBE, *[{"data": {}}] * jobs)
    async with running(valkey.url, processor(short, spec), MANY_SLOTS):
        await events.wait_for("completed", count=jobs)
    times = began_at(events)
    assert len(times) == jobs
    # A window begins with its first job, and with the clocks of two processes.
    for first, later in zip(times, times[most:], strict=False):
        assert later - first >= window_ms * 0.9
    # And not much slower than it may be: BullMQ's port for Python once took ten times as long.
    assert times[-1] - times[0] < 3 * window_ms * (jobs / most - 1)


@symptom("limiter + concurrency stuck")
async def test_a_backlog_under_the_queues_concurrency_runs_to_its_end(valkey, node):
    """Slots that are free may take nothing, and must be woken when a job of another ends."""
    jobs, most = 20, 2
    events = await node.listen(PROBE)
    await node.call(PROBE, "setGlobalConcurrency", most)
    async with running(valkey.url, probe(), MANY_SLOTS), running(valkey.url, probe(), MANY_SLOTS):
        await node.add(PROBE, *[{"data": {"seconds": 0.05}}] * jobs)
        await events.wait_for("completed", count=jobs)
    at_once = most_at_once = 0
    for line in events.heard:
        at_once += {"active": 1, "completed": -1}.get(line["event"], 0)
        most_at_once = max(most_at_once, at_once)
    assert most_at_once == most


@peer("dynamic limit")
async def test_a_limit_that_an_application_sets_holds_back_what_waits(valkey, node):
    """As an administrator does from outside, by the queue's `rateLimit`.

    BullMQ heeds it only where there is a limit at all; the one here is never reached.
    """
    events = await node.listen(PROBE)
    await node.call(PROBE, "setGlobalRateLimit", 1000, 1)
    async with running(valkey.url, probe(), MANY_SLOTS):
        await events.wait_for("completed", await node.add_one(PROBE))
        await node.call(PROBE, "rateLimit", 700)
        limited_at = valkey.client.time()
        await node.add(PROBE, *[{"data": {}}] * 5)
        await events.wait_for("completed", count=6)
    since_ms = limited_at[0] * 1000 + limited_at[1] / 1000
    waited = [at - since_ms for at in began_at(events)[1:]]
    assert all(600 < ms < 1500 for ms in waited), waited


@peer("dynamic limit")
async def test_a_limit_that_a_job_finds_out_about_holds_its_queue_back(valkey, node):
    """As from an engine's "too many requests": the job goes back, and no worker begins another."""
    jobs, dynamic_ms, window_ms = 6, 200, 100
    began = set()

    async def limited_at_first(request, context):
        if context.job.id not in began:
            began.add(context.job.id)
            raise RateLimited(timedelta(milliseconds=dynamic_ms))

    events = await node.listen(PROBE)
    limit = RateLimit(max=1, duration=timedelta(milliseconds=window_ms))
    plugin = processor(limited_at_first, QueueSpec(PROBE, limit=limit))
    async with running(valkey.url, plugin), running(valkey.url, plugin):
        since = anyio.current_time()
        ids = await node.add(PROBE, *[{"data": {}}] * jobs)
        await events.wait_for("completed", count=jobs)
        took_ms = (anyio.current_time() - since) * 1000
    assert took_ms >= 0.95 * (jobs * dynamic_ms + (jobs - 1) * window_ms)
    assert events.of("failed") == []
    for job_id in ids:
        job = await node.job(PROBE, job_id)
        assert (job["attemptsStarted"], job["attemptsMade"]) == (2, 1)


@peer("delayed promoted while limited")
async def test_delayed_jobs_that_come_due_under_a_limit_wait_with_the_others(
    valkey, node, monkeypatch
):
    """A worker looks in while the limit lasts, every 30 seconds; here it is every second."""
    monkeypatch.setattr(consumer, "_LONGEST_LIMIT_MS", 1000)
    client = valkey.client
    await node.call(PROBE, "setGlobalRateLimit", 1, 60_000)
    await node.add(PROBE, *[{"data": {}}] * 2)
    await node.add(PROBE, *[{"data": {}, "opts": {"delay": 300}}] * 2)
    async with running(valkey.url, probe()):
        await eventually_async(lambda: count_in(client, "completed") == 1)
        assert count_in(client, "delayed") == 2
        await eventually_async(lambda: client.llen(f"{BASE}:wait") == 3, within=4)
        assert count_in(client, "delayed") == 0
        assert count_in(client, "completed") == 1

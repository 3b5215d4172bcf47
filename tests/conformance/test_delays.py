"""Jobs for later: when they begin, and in which order."""

from __future__ import annotations

import statistics
import time

from tests.conformance.reference import peer
from tests.conformance.support import BASE, count_in, times_of
from tests.integration.support import PROBE, Ledger, probe, running
from worker_core.testing.polling import eventually_async


@peer("same-timestamp FIFO")
async def test_jobs_that_are_due_at_the_same_moment_run_in_the_order_of_their_arrival(valkey, node):
    ledger, jobs = Ledger(), 43
    opts = {"delay": 600, "timestamp": int(time.time() * 1000)}
    async with running(valkey.url, probe(ledger), {"worker": {"concurrency": 1}}):
        ids = [await node.add_one(PROBE, **opts) for _ in range(jobs)]
        await eventually_async(lambda: count_in(valkey.client, "completed") == jobs)
    assert ledger.began == ids


@peer("survives deleted markers")
async def test_a_delayed_job_is_in_time_though_its_marker_is_deleted(valkey, node):
    """Once before the worker starts, and once more while it waits."""
    client, delay = valkey.client, 2000
    events = await node.listen(PROBE)
    job_id = await node.add_one(PROBE, delay=delay)
    await events.wait_for("delayed", job_id)
    assert client.delete(f"{BASE}:marker")
    async with running(valkey.url, probe()):
        added, _, _ = times_of(client, job_id)
        await eventually_async(lambda: time.time() * 1000 > added + delay / 2)
        client.delete(f"{BASE}:marker")
        await events.wait_for("completed", job_id)
    added, began, _ = times_of(client, job_id)
    assert delay <= began - added < delay * 1.2
    assert client.llen(f"{BASE}:wait") == count_in(client, "delayed") == 0


@peer("survives deleted markers")
async def test_a_waiting_job_is_found_though_its_marker_is_lost(valkey, node):
    """The worker blocks on a marker that nobody writes again; the block's end finds the job."""
    client = valkey.client
    events = await node.listen(PROBE)
    async with running(valkey.url, probe(), {"queue": {"drain_delay": "700ms"}}):
        await node.add_one(PROBE)
        await events.wait_for("completed", count=1)
        with client.pipeline() as together:
            together.lpush(f"{BASE}:wait", "lost")
            together.hset(
                f"{BASE}:lost",
                mapping={"name": "x", "data": "{}", "opts": "{}", "timestamp": 1, "priority": 0},
            )
            together.execute()
        await events.wait_for("completed", "lost", within=3)


async def test_delayed_jobs_begin_no_later_than_in_a_node_worker(valkey, node):
    """The server's blocks end late, and so do the jobs of a worker that relies on them."""
    delays = [300 + 40 * n for n in range(15)]

    async def lateness(queue):
        ids = await node.add(queue, *[{"opts": {"delay": delay}} for delay in delays])
        await eventually_async(
            lambda: count_in(valkey.client, "completed", queue) == len(ids), within=15
        )
        times = [times_of(valkey.client, job_id, queue) for job_id in ids]
        return [
            began - added - delay for delay, (added, began, _) in zip(delays, times, strict=True)
        ]

    await node.work("theirs")
    theirs = await lateness("theirs")
    async with running(valkey.url, probe(queues=("ours",))):
        ours = await lateness("ours")
    assert min(ours) >= 0
    # A few milliseconds are what the polling in this loop costs.
    assert statistics.median(ours) <= statistics.median(theirs) + 10

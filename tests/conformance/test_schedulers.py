"""Job schedulers: each job that begins brings the next one about."""

from __future__ import annotations

import itertools

from tests.conformance.reference import peer, symptom
from tests.conformance.support import abandon, count_in
from tests.integration.support import PROBE, Ledger, fields_of, probe, running
from worker_core.testing.polling import eventually_async

TOO_OFTEN = "job stalled more than allowable limit"


async def schedule(node, *, data=None, **repeat):
    """Add a scheduler, with an interval or a pattern; return its first job's id."""
    first = await node.call(PROBE, "upsertJobScheduler", "tick", repeat, {"data": data or {}})
    return first["id"]


def steps(events, every):
    """By how many intervals each job that completed was due after the one before, as ids say."""
    due = sorted(int(line["jobId"].rpartition(":")[2]) for line in events.of("completed"))
    return [(later - earlier) / every for earlier, later in itertools.pairwise(due)]


def assert_on_pace(events, every):
    """One job for each interval; BullMQ leaves out those that a busy machine is too late for."""
    taken = steps(events, every)
    assert all(step == int(step) >= 1 for step in taken), taken
    assert sum(taken) <= 2 * len(taken), taken


@peer("stalled scheduler jobs go on")
async def test_a_schedulers_job_never_fails_for_having_stalled(valkey, node):
    """A scheduler must not end because its workers die; another job fails after as many stalls."""
    client, ledger = valkey.client, Ledger()
    events = await node.listen(PROBE)
    settings = {
        "worker": {"concurrency": 1},
        "queue": {"max_stalled_count": 2, "stalled_interval": "100ms"},
    }
    async with running(valkey.url, probe(ledger), settings):
        # It holds the only slot: the worker makes the checks, and runs nothing else meanwhile.
        holder = await node.add_one(PROBE, {"seconds": 3.0})
        await eventually_async(lambda: ledger.began)
        scheduled = await schedule(node, every=60_000)
        other = await node.add_one(PROBE)
        for stalls in (1, 2, 3):
            await abandon(client, scheduled, other)
            for job_id in (scheduled, other):
                await events.wait_for("stalled", job_id, count=stalls)
        assert holder not in ledger.ended, "too slow a machine for this test's clock"
        assert (await events.wait_for("failed", other))["failedReason"] == TOO_OFTEN
        await events.wait_for("completed", scheduled)
        assert fields_of(client, scheduled)["stc"] == "3"
        await eventually_async(lambda: count_in(client, "delayed") == 1)
    assert ledger.began == [holder, scheduled]


@symptom("scheduler stops")
async def test_a_scheduler_goes_on_though_its_worker_died_before_it_brought_the_next(valkey, node):
    """Killed between the fetch of a job and the word to the scheduler: no next job is there."""
    client, ledger = valkey.client, Ledger()
    events = await node.listen(PROBE)
    first = await schedule(node, every=400, data={"text": "tick"})
    await abandon(client, first)
    assert count_in(client, "delayed") == 0
    async with running(valkey.url, probe(ledger), {"queue": {"stalled_interval": "200ms"}}):
        await events.wait_for("completed", first)
        await events.wait_for("completed", count=4)
    assert len(ledger.began) == len(set(ledger.began))
    for job_id in ledger.ended[:4]:
        assert (await node.job(PROBE, job_id))["returnvalue"]["answer"] == "tick"


@symptom("scheduler stops")
async def test_a_schedulers_jobs_come_at_its_pace_whoever_runs_them(valkey, node):
    """One job an interval, and never two: also while two workers share the queue."""
    client, every = valkey.client, 300
    events = await node.listen(PROBE)
    async with running(valkey.url, probe()), running(valkey.url, probe()):
        await schedule(node, every=every)
        await events.wait_for("completed", count=5)
        assert count_in(client, "delayed") <= 1
    assert_on_pace(events, every)


@symptom("scheduler stops")
async def test_a_schedulers_pattern_is_gone_on_with(valkey, node):
    """Node reads the pattern for the first job, our worker for those that follow: each second."""
    events = await node.listen(PROBE)
    async with running(valkey.url, probe()):
        await schedule(node, pattern="* * * * * *")
        await events.wait_for("completed", count=4)
    assert_on_pace(events, 1000)

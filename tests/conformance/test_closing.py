"""Closing a worker while jobs run.

Node's `close()` waits for running jobs for ever, and a process manager that loses patience kills
it. Ours waits until the grace is over and then returns what still runs to its queue, no attempt
spent. That is meant: nothing may be unbounded, and a job that is returned runs elsewhere at once,
where one that was killed waits for its lock to run out and may fail as stalled.
"""

from __future__ import annotations

import signal
from datetime import timedelta

import anyio
import attrs
import pytest

from tests.conformance.reference import peer, symptom
from tests.conformance.support import BASE, processor
from tests.integration.support import CHAT, PROBE, Ledger, chat, locks, probe, running
from worker_core import DelayJob
from worker_core.testing.polling import eventually_async

SHORT_LOCKS = {"lock_duration": "1s", "lock_renew_time": "500ms"}


@peer("completes after close is called")
async def test_a_job_that_runs_when_the_worker_closes_is_completed(valkey, node):
    ledger = Ledger()
    events = await node.listen(PROBE)
    async with running(valkey.url, probe(ledger), {"worker": {"concurrency": 1}}) as one:
        job_id, waiting = await node.add(
            PROBE, {"data": {"seconds": 0.6, "text": "done"}}, {"data": {}}
        )
        await eventually_async(lambda: ledger.began)
        await one.stop(within=5)
        assert valkey.client.llen(f"{BASE}:active") == 0
    completed = await events.wait_for("completed", job_id)
    assert completed["returnvalue"]["answer"] == "done"
    # And nothing new was begun.
    assert (await node.job(PROBE, waiting))["state"] == "waiting"


@peer("completes after close is called")
async def test_what_outlives_the_grace_goes_back_where_node_would_wait_for_ever(valkey, node):
    ledger = Ledger()
    events = await node.listen(PROBE)
    async with running(valkey.url, probe(ledger), {"worker": {"grace": "200ms"}}) as one:
        job_id = await node.add_one(PROBE, {"do": "hang"})
        await eventually_async(lambda: ledger.began)
        await one.stop(within=5)
    job = await node.job(PROBE, job_id)
    assert (job["state"], job["attemptsMade"], job["attemptsStarted"]) == ("waiting", 0, 1)
    # Another worker, Node's as well as ours, goes on with it at once: the lock was let go.
    await node.work(PROBE)
    await events.wait_for("completed", job_id)
    assert events.of("stalled") == events.of("failed") == []


@symptom("failure during close leaves the job active")
@pytest.mark.parametrize(
    ("attempts", "state"), [pytest.param(1, "failed"), pytest.param(2, "waiting")]
)
async def test_a_failure_after_close_began_is_recorded(valkey, node, attempts, state):
    ledger = Ledger()
    async with running(valkey.url, probe(ledger)) as one:
        data = {"do": "fail", "seconds": 0.5, "text": "too late"}
        job_id = await node.add_one(PROBE, data, attempts=attempts)
        await eventually_async(lambda: ledger.began)
        await one.stop(within=5)
    job = await node.job(PROBE, job_id)
    assert (job["state"], job["attemptsMade"]) == (state, 1)
    assert job["failedReason"] == "RuntimeError: too late"
    assert locks(valkey.client) == []


@peer("locks are extended during close")
async def test_a_lock_is_renewed_while_the_worker_closes(valkey, node):
    closing, other = Ledger(), Ledger()
    events = await node.listen(PROBE)
    settings = {"queue": {**SHORT_LOCKS, "stalled_interval": "200ms"}}
    # The other worker would notice a lock that runs out, and take the job.
    async with (
        running(valkey.url, probe(other), settings),
        running(valkey.url, probe(closing), settings) as one,
    ):
        ids = await node.add(PROBE, *[{"data": {"seconds": 2.5}}] * 8)
        await eventually_async(lambda: closing.began)
        await one.stop(within=6)
        for job_id in ids:
            await events.wait_for("completed", job_id)
    assert events.of("stalled") == []
    assert sorted(closing.began + other.began) == sorted(ids)
    assert sorted(closing.ended) == sorted(closing.began)


@pytest.fixture
def start_chat(start_process, fake_engine, tmp_path):
    """Start a worker process whose chats take about two seconds, with locks of one."""
    fake_engine.behaviour = attrs.evolve(
        fake_engine.behaviour, parallel=8, token_seconds=0.2, tokens=10
    )
    config = tmp_path / "worker.toml"
    config.write_text(
        "[queue]\nlock_duration = '1s'\nlock_renew_time = '500ms'\nstalled_interval = '300ms'\n"
    )

    async def start(worker):
        process = start_process(
            *("--plugins", "chat", "--config", str(config)),
            environment={"WORKER_ID": worker, "OLLAMA_BASE_URL": fake_engine.url},
        )
        # Not by `wait_ready`, which would hold up the engine in this loop.
        await eventually_async(lambda: "ready" in process.log, within=20, what=process.log)
        return process

    return start


@symptom("lock lost while closing")
async def test_a_job_of_twice_its_lock_outlives_a_sigterm_at_its_start(
    valkey, node, start_chat, fake_engine
):
    events = await node.listen(CHAT)
    process = await start_chat("first")
    job_id = await node.add_one(CHAT, chat("a long story"))
    await events.wait_for("active", job_id)
    process.signal(signal.SIGTERM)
    # It would run a job that had lost its lock.
    await start_chat("second")
    await events.wait_for("completed", job_id)
    await eventually_async(lambda: process.process.poll() == 0, what=process.log)
    assert "lost" not in process.log
    assert events.of("stalled") == []
    job = await node.job(CHAT, job_id)
    assert (job["processedBy"], job["attemptsStarted"], job["attemptsMade"]) == ("first", 1, 1)
    assert job["finishedOn"] - job["processedOn"] >= 2000


@peer("close resolves despite delayed errors")
@pytest.mark.parametrize("paused", [False, True])
async def test_a_worker_whose_jobs_put_themselves_off_closes(valkey, node, paused):
    """Each job is due again at once: what the close waits for must not be the queue's end."""
    began = []

    async def puts_itself_off(request, context):
        began.append(context.job.id)
        await anyio.sleep(0.2)
        raise DelayJob(timedelta())

    async with running(valkey.url, processor(puts_itself_off)) as one:
        ids = await node.add(PROBE, *[{"data": {}}] * 50)
        await eventually_async(lambda: began)
        if paused:
            await node.call(PROBE, "pause")
        await one.stop(within=5)
    counts = await node.call(PROBE, "getJobCounts")
    assert counts["active"] == counts["failed"] == counts["completed"] == 0
    assert counts["waiting"] + counts["delayed"] + counts.get("paused", 0) == len(ids)


@symptom("close never ends")
async def test_nothing_new_is_begun_while_jobs_that_put_themselves_off_end(valkey, node):
    began = []

    async def puts_itself_off(request, context):
        began.append(context.job.id)
        await anyio.sleep(0.1)
        raise DelayJob(timedelta(milliseconds=1))

    settings = {"worker": {"concurrency": 5, "grace": "1h"}}
    async with running(valkey.url, processor(puts_itself_off), settings) as one:
        ids = await node.add(PROBE, *[{"data": {}, "opts": {"attempts": 3}}] * 8)
        # Some have come around a few times.
        await eventually_async(lambda: len(began) > 3 * len(ids))
        one.worker.request_stop("the test asks for it")
        begun = len(began)
        await one.stop(within=5)
    assert len(began) == begun
    for job_id in ids:
        job = await node.job(PROBE, job_id)
        assert (job["state"], job["attemptsMade"]) in {("delayed", 0), ("waiting", 0)}

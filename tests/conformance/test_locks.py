"""Locks that are lost while their job runs.

Node's worker runs such a job to its end and then emits an error: "Missing lock for job 1.
moveToFinished", or "Lock mismatch for job 1. Cmd moveToFinished from active". No client ever sees
these: they are for the worker's own log, where ours writes that the job was lost, its id, and which
of the two it was. And ours stops the job as soon as it knows, for another worker may run it by
now, and a model is too dear to run the same thing twice. Either way nothing is written.
"""

from __future__ import annotations

import time

import anyio
import pytest
from structlog.testing import capture_logs

from tests.conformance.reference import peer, symptom
from tests.conformance.support import BASE, processor
from tests.integration.support import PROBE, Ledger, fields_of, probe, running, state_of
from worker_core import Outcome
from worker_core.testing.polling import eventually_async


def take_away(client, job_id):
    assert client.delete(f"{BASE}:{job_id}:lock")


def steal(client, job_id):
    client.set(f"{BASE}:{job_id}:lock", "another worker's")


async def lose(valkey, node, how, settings=None, data=None):
    """Run one job whose lock is lost at its start; return the ledger and what was logged."""
    ledger = Ledger()
    events = await node.listen(PROBE)
    with capture_logs() as logged:
        async with running(valkey.url, probe(ledger), settings):
            job_id = await node.add_one(PROBE, data or {"seconds": 0.4})
            await eventually_async(lambda: ledger.began)
            how(valkey.client, job_id)
            await eventually_async(lambda: ledger.outcomes)
    assert ledger.outcomes == [(job_id, Outcome.LOST)]
    assert (
        not {"returnvalue", "finishedOn", "failedReason"} & fields_of(valkey.client, job_id).keys()
    )
    assert events.of("completed") == events.of("failed") == []
    return ledger, [line for line in logged if line.get("job_id") == job_id]


@peer("a lost lock gives its message")
async def test_a_job_whose_lock_is_gone_at_its_end_is_logged_as_lost(valkey, node):
    ledger, logged = await lose(valkey, node, take_away)
    assert ledger.ended  # the lock would have been renewed later only
    [line] = [line for line in logged if line["log_level"] == "warning"]
    assert line["event"] == "job lost: another worker has it, or it was removed"
    assert line["why"] == "LOCK_GONE"


@peer("a stolen lock gives its message")
async def test_a_job_whose_lock_is_anothers_at_its_end_is_logged_as_lost(valkey, node):
    ledger, logged = await lose(valkey, node, steal)
    assert ledger.ended
    [line] = [line for line in logged if line["log_level"] == "warning"]
    assert line["event"] == "job lost: another worker has it, or it was removed"
    assert line["why"] == "LOCK_STOLEN"
    assert valkey.client.get(f"{BASE}:1:lock") == b"another worker's"


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(take_away, marks=peer("a lost lock gives its message")),
        pytest.param(steal, marks=peer("a stolen lock gives its message")),
    ],
)
async def test_a_renewal_that_finds_the_lock_lost_stops_the_job(valkey, node, how):
    settings = {
        "queue": {
            "lock_duration": "900ms",
            "lock_renew_time": "400ms",
            "stalled_interval": "1h",
        }
    }
    ledger, logged = await lose(valkey, node, how, settings, {"do": "hang"})
    assert ledger.cancelled == ["1"]
    assert "lock lost: the job is stopped" in [line["event"] for line in logged]


@symptom("could not renew lock")
async def test_a_worker_that_stood_still_past_its_locks_writes_nothing_and_goes_on(valkey, node):
    """A plugin holds up the event loop for longer than the lock lasts; a Node worker takes over."""
    began, stand_still = anyio.Event(), anyio.Event()

    async def hold_up_the_loop(request, context):
        if request.text == "hold up":
            began.set()
            await stand_still.wait()
            time.sleep(3)  # noqa: ASYNC251  # which is the fault
        return "ours"

    events = await node.listen(PROBE)
    # One check for all workers in each interval, as whoever made the last one says.
    settings = {
        "queue": {
            "lock_duration": "1s",
            "lock_renew_time": "500ms",
            "stalled_interval": "300ms",
        }
    }
    async with running(valkey.url, processor(hold_up_the_loop), settings):
        job_id = await node.add_one(PROBE, {"text": "hold up"})
        await began.wait()
        # A worker that stands still is first in the line of those who wait, and takes the word of
        # the job with it: Node's sees it at the end of its own wait.
        await node.work(PROBE, stalledInterval=300, drainDelay=0.3, name="node")
        stand_still.set()
        completed = await events.wait_for("completed", job_id)
        assert completed["returnvalue"] == {"text": "hold up"}
        await eventually_async(lambda: state_of(valkey.client, job_id) == "completed")
        await node.close_worker(PROBE)
        after = await node.add_one(PROBE)
        await events.wait_for("completed", after)
    job = await node.job(PROBE, job_id)
    assert (job["processedBy"], job["attemptsStarted"], job["attemptsMade"]) == ("node", 2, 1)
    assert len(events.of("completed", job_id)) == 1
    assert len(events.of("stalled", job_id)) == 1

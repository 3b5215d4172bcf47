"""Jobs whose worker is gone."""

from __future__ import annotations

import pytest

from tests.conformance.reference import peer
from tests.conformance.support import BASE, abandon, count_in
from tests.integration.support import PROBE, Ledger, fields_of, probe, running, state_of
from worker_core.testing.polling import eventually_async

TOO_OFTEN = "job stalled more than allowable limit"
"""BullMQ's own words."""
NEVER_TWICE = {"queue": {"max_stalled_count": 0, "stalled_interval": "200ms"}}


@peer("a finished id leaves the stalled set")
@pytest.mark.parametrize("do", ["answer", "fail"])
async def test_a_job_that_ended_is_in_no_stalled_check(valkey, node, do):
    """Checks come all the time and note each running job; its end has to take it out again."""
    events = await node.listen(PROBE)
    async with running(valkey.url, probe(), {"queue": {"stalled_interval": "10ms"}}):
        ids = await node.add(PROBE, *[{"data": {"do": do, "seconds": 0.1}}] * 12)
        noted = f"{BASE}:stalled"
        await eventually_async(lambda: valkey.client.scard(noted))
        for job_id in ids:
            await events.wait_for("failed" if do == "fail" else "completed", job_id)
            assert not valkey.client.sismember(noted, job_id)
    assert events.of("stalled") == []


@peer("over-limit stalls fail")
async def test_jobs_that_stalled_too_often_fail(valkey, node):
    ledger = Ledger()
    events = await node.listen(PROBE)
    ids = await node.add(PROBE, *[{"opts": {"attempts": 3}}] * 4)
    await abandon(valkey.client, *ids)
    async with running(valkey.url, probe(ledger), NEVER_TWICE):
        for job_id in ids:
            failed = await events.wait_for("failed", job_id)
            assert failed["failedReason"] == TOO_OFTEN
    assert ledger.began == []
    for job_id in ids:
        job = await node.job(PROBE, job_id)
        assert (job["state"], job["attemptsStarted"], job["attemptsMade"]) == ("failed", 2, 1)
        assert job["finishedOn"]
        assert fields_of(valkey.client, job_id)["stc"] == "1"


@peer("deferred failure on the next fetch")
async def test_the_worker_that_fetches_a_job_marked_as_failed_fails_it_unrun(valkey, node):
    client, busy, second = valkey.client, Ledger(), Ledger()
    events = await node.listen(PROBE)
    one_slot = {**NEVER_TWICE, "worker": {"concurrency": 1}}
    async with running(valkey.url, probe(busy), one_slot) as first:
        await node.add_one(PROBE, {"seconds": 1.0})
        await eventually_async(lambda: busy.began)
        marked = await node.add_one(PROBE)
        await abandon(client, marked)
        # The check marks the job and puts it back; the one who checks has no slot for it.
        await eventually_async(lambda: fields_of(client, marked).get("defa") == TOO_OFTEN)
        assert state_of(client, marked) == "wait"
        runnable = await node.add_one(PROBE)
        await first.stop(within=5)
    assert state_of(client, marked) == "wait"
    async with running(valkey.url, probe(second), one_slot):
        failed = await events.wait_for("failed", marked)
        assert failed["failedReason"] == TOO_OFTEN
        await events.wait_for("completed", runnable)
    assert second.began == [runnable]
    assert (count_in(client, "failed"), client.llen(f"{BASE}:active")) == (1, 0)


@peer("a stalled child fails its parent")
async def test_a_parent_fails_with_a_child_that_stalled_too_often(valkey, node):
    ledger = Ledger()
    parents = await node.listen("parents")
    child = {"name": "child", "queueName": PROBE, "opts": {"failParentOnFailure": True}}
    tree = await node.flow({"name": "parent", "queueName": "parents", "children": [child] * 2})
    stalled, other = [child["id"] for child in tree["children"]]
    await node.call(PROBE, "remove", other)
    await abandon(valkey.client, stalled)
    both = probe(ledger, queues=(PROBE, "parents"))
    async with running(valkey.url, both, NEVER_TWICE):
        failed = await parents.wait_for("failed", tree["id"])
    assert failed["failedReason"] == f"child {BASE}:{stalled} failed"
    assert ledger.began == []
    assert (await node.job(PROBE, stalled))["failedReason"] == TOO_OFTEN

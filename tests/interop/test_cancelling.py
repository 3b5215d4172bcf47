"""Cancelling as Node's listeners, flows, schedulers and deduplication see it."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from tests.chaos.gate import run_gate
from tests.conformance.support import processor
from tests.integration.support import PROBE, fields_of, running, state_of
from tests.interop.test_flows import FAMILY, KIDS, child, key, tree
from worker_core import ChildFailure
from worker_core._bullmq.keys import QueueKeys
from worker_core.client import CancelOutcome, JobRef, JobState, open_client
from worker_core.testing.polling import eventually_async

SOON = timedelta(seconds=10)
HOUR_MS = 3_600_000


@pytest.fixture
async def client(valkey):
    async with open_client(valkey.url) as made:
        yield made


def nothing_left(redis, queue=PROBE):
    return not redis.exists(QueueKeys("bull", queue).wishes)


@pytest.mark.parametrize("options", [{}, {"priority": 3}, {"delay": HOUR_MS}, {"lifo": True}])
async def test_nodes_listeners_hear_that_a_waiting_job_failed(valkey, app, client, options):
    events = await app.listen(PROBE)
    job_id = await app.add_one(PROBE, attempts=3, **options)
    assert await client.cancel(JobRef(job_id, PROBE)) is CancelOutcome.CANCELLED
    failed = await events.wait_for("failed", job_id)
    assert (failed["failedReason"], failed["prev"]) == ("cancelled", "active")
    assert events.of("error") == events.of("active") == events.of("retries-exhausted") == []
    job = await app.job(PROBE, job_id)
    assert (job["state"], job["failedReason"], job.get("processedOn")) == (
        *("failed", "cancelled"),
        None,
    )


async def test_a_paused_queue_stays_paused(valkey, app, client):
    await app.call(PROBE, "pause")
    first, second = await app.add(PROBE, {}, {})
    assert await client.cancel(JobRef(first, PROBE)) is CancelOutcome.CANCELLED
    async with running(valkey.url, processor(_answer)):
        await eventually_async(lambda: state_of(valkey.client, first) == "failed")
        assert state_of(valkey.client, second) == "wait"
        await app.call(PROBE, "resume")
        await eventually_async(lambda: state_of(valkey.client, second) == "completed")


async def test_a_running_job_fails_once_and_can_be_tried_again_by_hand(valkey, app, client):
    events = await app.listen(PROBE)

    async with running(valkey.url, processor(_sleep_at_first)):
        job_id = await app.add_one(PROBE, attempts=3)
        await events.wait_for("active", job_id)
        assert await client.cancel(JobRef(job_id, PROBE), wait=SOON) is CancelOutcome.CANCELLED
        failed = await events.wait_for("failed", job_id)
        assert failed["failedReason"] == "cancelled"
        assert await app.call(PROBE, "retryJobs", {"state": "failed"}) is None
        await events.wait_for("completed", job_id)
    assert len(events.of("failed", job_id)) == 1
    assert nothing_left(valkey.client)


async def _answer(request, context):
    return None


async def _sleep_at_first(request, context):
    if context.job.attempt == 1:
        await anyio.sleep(20)
    return "ran"


@pytest.mark.parametrize("failure", ChildFailure)
@pytest.mark.parametrize("runs", [False, True], ids=["waiting child", "running child"])
async def test_a_parent_follows_its_options_when_a_child_is_cancelled(
    valkey, app, client, failure, runs
):
    events = await app.listen(PROBE)
    seconds = 20.0 if runs else 0.0
    given = child("cancelled", failure, seconds=seconds)
    if not runs:
        given["opts"] = {**given["opts"], "delay": HOUR_MS}
    async with running(valkey.url, FAMILY):
        ids = await app.flow(tree(given, child("other")))
        parent, [one, other] = ids["id"], [made["id"] for made in ids["children"]]
        await eventually_async(lambda: state_of(valkey.client, other, KIDS) == "completed")
        if runs:
            await eventually_async(lambda: state_of(valkey.client, one, KIDS) == "active")
        outcome = await client.cancel(JobRef(one, KIDS), wait=SOON)
        assert outcome is CancelOutcome.CANCELLED
        match failure:
            case ChildFailure.WAIT:
                assert state_of(valkey.client, parent) == "waiting-children"
            case ChildFailure.FAIL_PARENT:
                failed = await events.wait_for("failed", parent)
                assert failed["failedReason"] == f"child {key(one)} failed"
            case _:
                ended = await events.wait_for("completed", parent)
                kept = failure in {ChildFailure.CONTINUE_PARENT, ChildFailure.IGNORE}
                answer = ended["returnvalue"]["answer"]
                assert answer["failures"] == ({key(one): "cancelled"} if kept else {})
                assert answer["values"] == {key(other): "other"}
    assert nothing_left(valkey.client, KIDS)


async def test_a_parent_that_waits_for_its_children_is_cancelled_and_they_go_on(
    valkey, app, client
):
    events = await app.listen(PROBE)
    ids = await app.flow(tree(child("a"), child("b")))
    assert await client.cancel(JobRef(ids["id"], PROBE)) is CancelOutcome.CANCELLED
    failed = await events.wait_for("failed", ids["id"])
    assert failed["failedReason"] == "cancelled"
    async with running(valkey.url, FAMILY):
        for one in ids["children"]:
            await eventually_async(
                lambda one=one: state_of(valkey.client, one["id"], KIDS) == "completed"
            )
    assert state_of(valkey.client, ids["id"]) == "failed"
    assert events.of("completed") == []


async def test_a_deduplicated_job_makes_way_for_the_next(valkey, app, client):
    opts = {"deduplication": {"id": "one"}}
    first = await app.add_one(PROBE, **opts)
    assert await app.add_one(PROBE, **opts) == first
    await client.cancel(JobRef(first, PROBE))
    assert not valkey.client.exists(f"bull:{PROBE}:de:one")
    second = await app.add_one(PROBE, **opts)
    assert (second != first, state_of(valkey.client, second)) == (True, "wait")


async def test_the_next_job_of_a_scheduler_is_cancelled_and_the_scheduler_goes_on(
    valkey, app, client
):
    """Its next job must be claimed for the one behind it to be made, so that is when it fails."""
    events = await app.listen(PROBE)
    ran = []

    async def run(request, context):
        ran.append(context.job.id)

    await app.call(PROBE, "upsertJobScheduler", "tick", {"every": 1000}, {"data": {}})
    async with running(valkey.url, processor(run)):
        await eventually_async(lambda: ran)
        [following] = await client.list_jobs(PROBE, state=JobState.DELAYED)
        assert await client.cancel(following.ref) is CancelOutcome.REQUESTED
        failed = await events.wait_for("failed", following.ref.id)
        assert failed["failedReason"] == "cancelled"
        await eventually_async(lambda: len(ran) >= 2)
        assert following.ref.id not in ran
        await app.call(PROBE, "removeJobScheduler", "tick")
        await eventually_async(lambda: nothing_left(valkey.client))
    assert fields_of(valkey.client, following.ref.id)["failedReason"] == "cancelled"


async def test_a_scheduler_goes_on_though_its_job_is_cancelled_before_it_has(valkey, app, client):
    """The wish comes while the job makes the next one, and nobody else would make it."""
    ran = []

    async def run(request, context):
        ran.append(context.job.id)

    async with anyio.create_task_group() as tasks:
        gate = await tasks.start(run_gate, valkey.server.port)
        async with running(gate.url, processor(run)):
            gate.hold("updateJobScheduler")
            await app.call(PROBE, "upsertJobScheduler", "tick", {"every": HOUR_MS}, {"data": {}})
            await eventually_async(lambda: gate.calls["updateJobScheduler"] == 1)
            [runs] = await client.list_jobs(PROBE, state=JobState.ACTIVE)
            asked = gate.calls["reviewWishes"]
            assert await client.cancel(runs.ref) is CancelOutcome.REQUESTED
            await eventually_async(lambda: gate.calls["reviewWishes"] > asked)
            gate.release()
            await eventually_async(lambda: state_of(valkey.client, runs.ref.id) == "failed")
            assert len(await client.list_jobs(PROBE, state=JobState.DELAYED)) == 1
        assert ran == []
        tasks.cancel_scope.cancel()

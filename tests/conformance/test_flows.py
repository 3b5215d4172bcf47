"""Parents and children."""

from __future__ import annotations

import anyio

from tests.conformance.reference import peer
from tests.conformance.support import BASE, processor
from tests.integration.support import PROBE, running, state_of
from worker_core import WaitForChildren


@peer("completing with pending children fails")
async def test_a_job_that_ends_before_its_children_fails(valkey, node):
    began, go_on = anyio.Event(), anyio.Event()

    async def gets_a_child_meanwhile(request, context):
        began.set()
        await go_on.wait()
        return "done"

    events = await node.listen(PROBE)
    async with running(valkey.url, processor(gets_a_child_meanwhile)):
        parent = await node.add_one(PROBE)
        await began.wait()
        child = await node.add_one("children", parent={"id": parent, "queue": BASE})
        go_on.set()
        failed = await events.wait_for("failed", parent)
    assert failed["failedReason"] == f"Job {parent} has pending dependencies. moveToFinished"
    assert failed["prev"] == "active"
    assert state_of(valkey.client, child, "children") == "wait"
    job = await node.job(PROBE, parent)
    assert (job["state"], job["returnvalue"]) == ("failed", None)


@peer("completing with pending children fails")
async def test_a_job_that_adds_a_child_and_does_not_wait_for_it_fails(valkey, node):
    async def forgets_to_wait(request, context):
        await context.children.add("children", {"n": 1})
        return "done"

    events = await node.listen(PROBE)
    async with running(valkey.url, processor(forgets_to_wait)):
        parent = await node.add_one(PROBE)
        failed = await events.wait_for("failed", parent)
    assert failed["failedReason"] == f"Job {parent} has pending dependencies. moveToFinished"
    assert valkey.client.llen("bull:children:wait") == 1


@peer("completing with pending children fails")
async def test_a_job_that_waits_for_its_children_completes(valkey, node):
    """The children are run by Node; the second run of the parent is given what they returned."""

    async def waits(request, context):
        values = await context.children.values()
        if not values:
            await context.children.add("children", {"n": 1})
            await context.children.add("children", {"n": 2})
            raise WaitForChildren
        return sorted(value["n"] for value in values.values())

    events = await node.listen(PROBE)
    async with running(valkey.url, processor(waits)):
        parent = await node.add_one(PROBE)
        await events.wait_for("waiting-children", parent)
        await node.work("children")
        completed = await events.wait_for("completed", parent)
    assert completed["returnvalue"]["answer"] == [1, 2]
    job = await node.job(PROBE, parent)
    assert (job["attemptsStarted"], job["attemptsMade"]) == (2, 1)

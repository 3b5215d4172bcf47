"""Flows that Node makes and that jobs make themselves: parents run by ours, children by anybody."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance.support import processor
from tests.integration.support import PROBE, running, state_of
from worker_core import AddOptions, ChildFailure, QueueSpec, Unrecoverable, WaitForChildren
from worker_core.testing.polling import eventually_async

KIDS = "kids"
OPTIONS = {
    ChildFailure.WAIT: {},
    ChildFailure.FAIL_PARENT: {"failParentOnFailure": True},
    ChildFailure.CONTINUE_PARENT: {"continueParentOnFailure": True},
    ChildFailure.IGNORE: {"ignoreDependencyOnFailure": True},
    ChildFailure.REMOVE: {"removeDependencyOnFailure": True},
}


def key(child, queue=KIDS):
    return f"bull:{queue}:{child}"


async def parent_and_children(request, context):
    """Children return what they are told, or fail with it; the parent returns what it knows."""
    if context.job.queue == KIDS:
        await anyio.sleep(request.seconds)
        if request.text.startswith("fail"):
            raise Unrecoverable(request.text)
        return request.text
    values = await context.children.values()
    return {
        "values": {child: value["answer"] for child, value in values.items()},
        "failures": dict(await context.children.failures()),
        "pending": await context.children.pending(),
    }


FAMILY = processor(parent_and_children, QueueSpec(PROBE), QueueSpec(KIDS, concurrency=2))


def tree(*children):
    return {"name": "parent", "queueName": PROBE, "data": {}, "children": list(children)}


def child(text, failure=ChildFailure.WAIT, seconds=0.0):
    data = {"text": text, "seconds": seconds}
    return {"name": "child", "queueName": KIDS, "data": data, "opts": OPTIONS[failure]}


async def test_a_parent_is_given_what_its_children_returned(valkey, app):
    events = await app.listen(PROBE)
    async with running(valkey.url, FAMILY):
        ids = await app.flow(tree(child("a"), child("b")))
        ended = await events.wait_for("completed", ids["id"])
    first, second = (key(one["id"]) for one in ids["children"])
    assert ended["returnvalue"]["answer"] == {
        "values": {first: "a", second: "b"},
        "failures": {},
        "pending": 0,
    }


@pytest.mark.parametrize("failure", [ChildFailure.IGNORE, ChildFailure.REMOVE])
async def test_a_parent_does_not_wait_for_a_failure_that_it_ignores(valkey, app, failure):
    events = await app.listen(PROBE)
    async with running(valkey.url, FAMILY):
        ids = await app.flow(tree(child("fail: no", failure), child("late", seconds=0.2)))
        ended = await events.wait_for("completed", ids["id"])
    failed, late = (key(one["id"]) for one in ids["children"])
    assert ended["returnvalue"]["answer"] == {
        "values": {late: "late"},
        "failures": {failed: "fail: no"} if failure is ChildFailure.IGNORE else {},
        "pending": 0,
    }


async def test_a_parent_that_goes_on_at_a_failure_does_not_wait_for_the_others(valkey, app):
    """It runs at once, and may not complete while a child is pending: it must drop it, or wait."""

    async def family(request, context):
        if context.job.queue == KIDS:
            return await parent_and_children(request, context)
        seen.append((await context.children.pending(), await context.children.failures()))
        if await context.children.pending():
            raise WaitForChildren
        return "done"

    seen = []
    events = await app.listen(PROBE)
    plugin = processor(family, QueueSpec(PROBE), QueueSpec(KIDS, concurrency=2))
    async with running(valkey.url, plugin):
        failing = child("fail: now", ChildFailure.CONTINUE_PARENT)
        ids = await app.flow(tree(failing, child("late", seconds=0.5)))
        await events.wait_for("completed", ids["id"])
    failures = {key(ids["children"][0]["id"]): "fail: now"}
    assert seen == [(1, failures), (0, failures)]
    job = await app.job(PROBE, ids["id"])
    assert (job["attemptsStarted"], job["attemptsMade"]) == (2, 1)


async def test_a_parent_fails_with_its_child(valkey, app):
    events = await app.listen(PROBE)
    async with running(valkey.url, FAMILY):
        ids = await app.flow(tree(child("fail: no", ChildFailure.FAIL_PARENT), child("b")))
        ended = await events.wait_for("failed", ids["id"])
    assert ended["failedReason"] == f"child {key(ids['children'][0]['id'])} failed"


async def test_a_parent_waits_for_a_child_that_may_be_retried_by_hand(valkey, app):
    kids = await app.listen(KIDS)
    events = await app.listen(PROBE)
    async with running(valkey.url, FAMILY):
        ids = await app.flow(tree(child("fail: once")))
        [one] = ids["children"]
        await kids.wait_for("failed", one["id"])
        assert state_of(valkey.client, ids["id"]) == "waiting-children"
        valkey.client.hset(key(one["id"]), "data", '{"text":"mended"}')
        await app.call(KIDS, "retryJobs", {"state": "failed"})
        ended = await events.wait_for("completed", ids["id"])
    assert ended["returnvalue"]["answer"]["values"] == {key(one["id"]): "mended"}


@pytest.mark.parametrize("failure", ChildFailure)
async def test_a_child_that_a_job_adds_is_as_node_adds_it(valkey, app, failure):
    async def adds(request, context):
        name = await context.children.add(
            KIDS,
            {"text": "x"},
            if_it_fails=failure,
            options=AddOptions(job_id="ours", attempts=2),
        )
        added.append(name)
        raise WaitForChildren

    added = []
    events = await app.listen(PROBE)
    async with running(valkey.url, processor(adds)):
        parent = await app.add_one(PROBE)
        await events.wait_for("waiting-children", parent)
    by_node = {
        "jobId": "nodes",
        "attempts": 2,
        "parent": {"id": parent, "queue": key("", PROBE)[:-1]},
    }
    await app.add(
        KIDS, {"name": "child", "data": {"text": "x"}, "opts": by_node | OPTIONS[failure]}
    )
    fields = [valkey.client.hgetall(key(job)) for job in ("ours", "nodes")]
    for one in fields:
        del one[b"timestamp"], one[b"opts"]
    assert fields[0] == fields[1]
    assert added == [key("ours")]
    dependencies = valkey.client.smembers(f"{key(parent, PROBE)}:dependencies")
    assert dependencies == {key("ours").encode(), key("nodes").encode()}
    assert (await app.job(KIDS, "ours"))["state"] == "waiting"


@pytest.mark.parametrize("opts", [{}, {"priority": 3}, {"delay": 300}], ids=str)
async def test_a_job_adds_children_and_waits_for_them(valkey, app, opts):
    async def adds(request, context):
        if context.job.queue == KIDS:
            return request.n * 2
        values = await context.children.values()
        if not values:
            for n in range(3):
                await context.children.add(KIDS, {"n": n}, options=AddOptions(job_id=f"kid-{n}"))
            raise WaitForChildren
        return sorted(value["answer"] for value in values.values())

    events = await app.listen(PROBE)
    plugin = processor(adds, QueueSpec(PROBE), QueueSpec(KIDS))
    async with running(valkey.url, plugin):
        parent = await app.add_one(PROBE, **opts)
        ended = await events.wait_for("completed", parent)
    assert ended["returnvalue"]["answer"] == [0, 2, 4]
    job = await app.job(PROBE, parent)
    assert (job["attemptsStarted"], job["attemptsMade"]) == (2, 1)


async def test_children_that_ended_before_the_wait_let_the_job_run_again_at_once(valkey, app):
    async def quick_children(request, context):
        if context.job.queue == KIDS:
            return "done"
        runs.append(context.job.attempt)
        if not await context.children.values():
            await context.children.add(KIDS, {})
            await eventually_async(lambda: valkey.client.zcard(f"bull:{KIDS}:completed"))
            raise WaitForChildren
        return len(runs)

    runs = []
    events = await app.listen(PROBE)
    plugin = processor(quick_children, QueueSpec(PROBE), QueueSpec(KIDS))
    async with running(valkey.url, plugin):
        parent = await app.add_one(PROBE)
        ended = await events.wait_for("completed", parent)
    assert ended["returnvalue"]["answer"] == 2
    assert runs == [1, 1]
    assert events.of("waiting-children") == []


async def test_a_job_that_waits_for_nothing_for_ever_is_slow_about_it(valkey, app):
    async def waits(request, context):
        runs.append(context.job.id)
        raise WaitForChildren

    runs = []
    async with running(valkey.url, processor(waits)) as worker:
        await app.add_one(PROBE)
        await eventually_async(lambda: len(runs) >= 12)
        await anyio.sleep(0.5)
        assert len(runs) < 15
        await worker.stop(within=5)
    job_id = runs[0]
    assert state_of(valkey.client, job_id) in {"delayed", "wait"}


async def test_a_job_that_waits_for_a_child_that_failed_it_fails_for_good(valkey, app):
    async def adds(request, context):
        if context.job.queue == KIDS:
            raise Unrecoverable("no")
        await context.children.add(KIDS, {}, if_it_fails=ChildFailure.FAIL_PARENT)
        await eventually_async(lambda: valkey.client.zcard(f"bull:{KIDS}:failed"))
        raise WaitForChildren

    events = await app.listen(PROBE)
    plugin = processor(adds, QueueSpec(PROBE), QueueSpec(KIDS))
    async with running(valkey.url, plugin):
        parent = await app.add_one(PROBE, attempts=3)
        ended = await events.wait_for("failed", parent)
    assert ended["failedReason"] == (
        f"Cannot complete job {parent} because it has at least one failed child. moveToFinished"
    )
    assert (await app.job(PROBE, parent))["attemptsMade"] == 1


async def test_a_child_that_cannot_be_added_says_why(valkey, app):
    async def adds(request, context):
        for data, queue in (({"x": float("nan")}, KIDS), ({}, "a:b"), ({}, "")):
            try:
                await context.children.add(queue, data)
            except ValueError as error:
                said.append(str(error))
        valkey.client.delete(key(context.job.id, PROBE))
        try:
            await context.children.add(KIDS, {})
        except ValueError as error:
            said.append(str(error))

    said = []
    async with running(valkey.url, processor(adds)):
        await app.add_one(PROBE)
        await eventually_async(lambda: len(said) == 4, what=f"said: {said}")
    nan, colon, empty, gone = said
    assert "NaN" in nan or "finite" in nan
    assert "must not be empty or hold a colon" in colon
    assert "must not be empty or hold a colon" in empty
    assert "its parent is not there any more" in gone

"""Our workers and Node's on the same queues, and in the same flows."""

from __future__ import annotations

from collections import Counter

from tests.interop.support import CHAT, chat
from worker_core.testing.polling import eventually

JOBS = 120


def test_two_of_our_workers_and_a_node_worker_share_a_queue(node, start, valkey):
    start(worker="ours-1")
    start(worker="ours-2")
    theirs = node.start("work", queue="echo", concurrency=2)
    theirs.wait_for(lambda line: line.get("working"))
    ids = node.add("echo", *[{"data": {"text": f"job {n}"}} for n in range(JOBS)])
    eventually(lambda: valkey.client.zcard("bull:echo:completed") == JOBS, within=30)
    ran_by_node = [line["ran"] for line in theirs.finish() if "ran" in line]
    fields = [valkey.client.hmget(f"bull:echo:{job_id}", "pb", "ats", "atm") for job_id in ids]
    assert {(started, made) for _, started, made in fields} == {(b"1", b"1")}
    shares = Counter(worker.decode() for worker, _, _ in fields)
    assert set(shares) == {"ours-1", "ours-2", "node-worker"}
    assert shares["node-worker"] == len(ran_by_node) == len(set(ran_by_node))
    assert valkey.client.llen("bull:echo:active") == 0
    assert valkey.client.keys("bull:echo:*:lock") == []


def test_a_child_that_we_complete_unblocks_its_parent_in_node(node, start):
    start()
    parents = node.start("work", queue="parents")
    parents.wait_for(lambda line: line.get("working"))
    lines = node.run(
        "flow",
        parentQueue="parents",
        queue=CHAT,
        children=[{"data": chat("first")}, {"data": chat("second")}],
        waitMs=20_000,
    )
    given = next(line for line in lines if "returnvalue" in line)["returnvalue"]
    answers = sorted(child["answer"]["message"]["content"] for child in given["children"].values())
    assert answers == ["first", "second"]


def test_a_child_that_fails_fails_its_parent(node, start):
    start()
    parents = node.start("work", queue="parents")
    parents.wait_for(lambda line: line.get("working"))
    lines = node.run(
        "flow",
        parentQueue="parents",
        queue="echo",
        children=[{"data": {}, "opts": {"failParentOnFailure": True, "attempts": 3}}],
        waitMs=20_000,
    )
    assert "failed" in next(line for line in lines if "error" in line)["error"]
    assert lines[-1]["job"]["state"] == "failed"
    assert [line for line in parents.finish() if "ran" in line] == []


def test_a_failed_child_is_ignored_where_the_parent_says_so(node, start):
    start()
    parents = node.start("work", queue="parents")
    parents.wait_for(lambda line: line.get("working"))
    lines = node.run(
        "flow",
        parentQueue="parents",
        queue="echo",
        children=[
            {"data": {}, "opts": {"ignoreDependencyOnFailure": True}},
            {"data": {"text": "good"}},
        ],
        waitMs=20_000,
    )
    given = next(line for line in lines if "returnvalue" in line)["returnvalue"]
    assert [child["answer"] for child in given["children"].values()] == ["good"]


def test_we_run_a_parent_once_nodes_children_are_done(node, start):
    start()
    children = node.start("work", queue="children")
    children.wait_for(lambda line: line.get("working"))
    lines = node.run(
        "flow",
        parentQueue="echo",
        parentData={"text": "parent"},
        queue="children",
        children=[{"data": {}}, {"data": {}}],
        waitMs=20_000,
    )
    assert (
        next(line for line in lines if "returnvalue" in line)["returnvalue"]["answer"] == "parent"
    )
    assert len([line for line in children.finish() if "ran" in line]) == 2


def test_a_parent_of_ours_fails_with_its_child(node, start):
    """Node defers that failure: whoever fetches the parent next must fail it without running it."""
    start()
    lines = node.run(
        "flow",
        parentQueue="echo",
        parentData={"text": "parent"},
        queue=CHAT,
        children=[{"data": {}, "opts": {"failParentOnFailure": True}}],
        waitMs=20_000,
    )
    assert "failed" in next(line for line in lines if "error" in line)["error"]
    assert lines[-1]["job"]["state"] == "failed"

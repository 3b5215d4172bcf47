"""A Node application adds batches through BullMQ and reads their results."""

from __future__ import annotations

import pytest

from tests.interop.support import chat

BATCH = "llm-batch"


@pytest.fixture
def worker(start_process, engine):
    process = start_process(
        *("--plugins", "batch,chat", "--engine", "ollama"),
        environment={"OLLAMA_BASE_URL": engine.url, "OLLAMA_MAX_RETRIES": "0"},
    )
    process.wait_ready()
    return process


def item(name, job_type="chat"):
    return {"custom_id": name, "type": job_type, "body": chat(name)}


def test_node_adds_a_batch_and_reads_what_became_of_each_item(node, worker, engine):
    engine.script(path="/api/chat", contains="bad", action="status", status=400, error="no")
    names = ["one", "bad", "three"]
    listener = node.start("listen", queue=BATCH)
    data = {"requests": [item(name) for name in names], "metadata": {"mine": 1}}
    [ended] = node.ask(BATCH, {"data": data, "opts": {"attempts": 3}})
    answer = ended["returnvalue"]["answer"]
    assert (answer["total"], answer["completed"], answer["failed"]) == (3, 2, 1)
    assert [one["custom_id"] for one in answer["items"]] == names
    one, bad, three = answer["items"]
    assert (one["status"], one["type"]) == ("completed", "chat")
    assert one["result"]["answer"]["message"]["content"] == "one"
    assert one["result"]["type"] == "chat"
    assert (bad["status"], bad["error"]["class"]) == ("failed", "bad_input")
    assert three["result"]["usage"]["total_tokens"] > 0
    used = sum(one["result"]["usage"]["total_tokens"] for one in (one, three))
    assert answer["usage"]["total_tokens"] == used
    listener.wait_for(lambda line: line["event"] == "completed")
    told = [line["data"] for line in listener.finish() if line["event"] == "progress"]
    assert told[0] == {"done": 0, "failed": 0, "total": 3}


def test_node_is_told_every_fault_and_nothing_runs(node, worker):
    data = {"requests": [item("a"), item("a"), item("b", "poems"), {"custom_id": "c"}]}
    [ended] = node.ask(BATCH, {"data": data, "opts": {"attempts": 3}})
    assert ended["error"] == (
        "invalid request: requests[1].custom_id: is that of requests[0] too: 'a'; "
        "requests[2].type: no job type 'poems' may run in a batch; there are: chat; "
        "requests[3].type: missing; requests[3].body: missing"
    )
    [job] = node.jobs(BATCH, ended["finished"])
    assert (job["state"], job["attemptsMade"]) == ("failed", 1)

"""A Node application reads token streams, by the lines that the documentation gives it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.interop.support import CHAT, chat
from worker_core.client import CancelOutcome, JobRef, JobState, SyncClient
from worker_core.testing.polling import eventually

WORDS = "one two three four five six seven eight"
PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def code():
    section = PAGE.read_text("utf-8").partition("\n## Token streams\n")[2].partition("\n## ")[0]
    [found] = re.findall(r"```js\n(.*?)```", section, re.DOTALL)
    assert len(found.splitlines()) <= 10
    return found


def read(node, job_id):
    return node.run("tail", id=job_id, code=code())


def test_node_reads_a_stream_live_and_again_after_the_fact(node, start, engine):
    start()
    engine.behave(token_seconds=0.15)
    [job_id] = node.add(CHAT, {"data": chat(WORDS, stream=True)})
    lines = read(node, job_id)
    [job] = node.jobs(CHAT, job_id)
    shown = [line for line in lines if "at" in line]
    assert len(shown) >= 5
    assert all(WORDS.startswith(line["answer"]) for line in shown)
    # While the job ran, and not all at its end.
    assert sum(line["at"] < job["finishedOn"] for line in shown) >= 4
    assert lines[-1]["answer"] == WORDS
    assert lines[-1]["end"]["outcome"] == "completed"
    assert job["returnvalue"]["answer"]["message"]["content"] == WORDS

    again = read(node, job_id)
    assert [line["answer"] for line in again if "at" in line] == [line["answer"] for line in shown]
    assert again[-1] == lines[-1]


def test_node_forgets_what_a_failed_attempt_said(node, start, engine):
    start()
    fault = {"path": "/api/chat", "contains": "one", "action": "error_line", "after_chunks": 3}
    engine.script(**fault)
    engine.behave(token_seconds=0.06)
    [job_id] = node.add(CHAT, {"data": chat(WORDS, stream=True), "opts": {"attempts": 2}})
    lines = read(node, job_id)
    assert any(line.get("answer") == "one two three" for line in lines)
    assert lines[-1]["answer"] == WORDS
    assert lines[-1]["end"]["outcome"] == "completed"


def test_node_learns_why_a_stream_ended_without_an_answer(node, start):
    start()
    [job_id] = node.add(CHAT, {"data": chat(WORDS, stream=True, model="nope")})
    end = read(node, job_id)[-1]["end"]
    assert end["outcome"] == "failed"
    assert end["reason"].startswith("model_missing: ")
    [job] = node.jobs(CHAT, job_id)
    assert job["failedReason"] == end["reason"]


def test_a_stream_is_there_to_its_end_when_node_has_the_result(node, start):
    start()
    ended = node.ask(CHAT, *({"data": chat(WORDS, stream=True)} for _ in range(5)))
    for line in ended:
        assert read(node, line["finished"])[-1]["answer"] == WORDS


def test_node_learns_that_a_job_was_cancelled_between_two_attempts(node, start, engine, valkey):
    worker = start()
    fault = {"path": "/api/chat", "contains": "one", "action": "error_line", "after_chunks": 3}
    engine.script(**fault)
    engine.behave(token_seconds=0.06)
    opts = {"attempts": 2, "backoff": {"type": "fixed", "delay": 3_600_000}}
    [job_id] = node.add(CHAT, {"data": chat(WORDS, stream=True), "opts": opts})
    with ThreadPoolExecutor() as threads, SyncClient(valkey.url) as client:
        reading = threads.submit(read, node, job_id)
        eventually(lambda: client.list_jobs(CHAT, state=JobState.DELAYED))
        worker.kill()  # nobody but the client sees to it
        eventually(lambda: any("b" in one["flags"] for one in valkey.client.client_list()))
        assert client.cancel(JobRef(job_id, CHAT)) is CancelOutcome.CANCELLED
        lines = reading.result(timeout=20)
    assert lines[-1]["answer"] == "one two three"
    assert lines[-1]["end"]["outcome"] == lines[-1]["end"]["reason"] == "cancelled"

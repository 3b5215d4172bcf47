"""When jobs run: retries, delays, priorities, pauses; as Node producers ask for them."""

from __future__ import annotations

import itertools

import pytest

from tests.interop.support import CHAT, chat

FAULT = {"path": "/api/chat", "action": "status", "status": 500}
LATE_MS = 1000
"""What a loaded machine may add to a delay; never anything in the other direction."""


def starts(node, job_id):
    """When the job became active each time, in milliseconds, by the server's clock."""
    listener = node.start("listen", queue=CHAT)
    listener.wait_for(lambda line: line["event"] in {"completed", "failed"})
    lines = listener.finish()
    return [line["at"] for line in lines if line["event"] == "active" and line["jobId"] == job_id]


def gaps(times):
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize(
    ("backoff", "least", "most"),
    [
        pytest.param(None, [0, 0], [0, 0], id="none"),
        pytest.param(500, [500, 500], [500, 500], id="number"),
        pytest.param({"type": "fixed", "delay": 400}, [400, 400], [400, 400], id="fixed"),
        pytest.param(
            {"type": "exponential", "delay": 300}, [300, 600], [300, 600], id="exponential"
        ),
        pytest.param(
            {"type": "fixed", "delay": 800, "jitter": 0.5}, [400, 400], [800, 800], id="jitter"
        ),
        pytest.param({"type": "fixed"}, [0, 0], [0, 0], id="no delay"),
    ],
)
def test_a_failed_job_is_tried_again_after_its_backoff(node, start, engine, backoff, least, most):
    start()
    engine.script(**FAULT, count=2)
    opts = {"attempts": 3, **({"backoff": backoff} if backoff else {})}
    [ended] = node.ask(CHAT, {"data": chat("hi"), "opts": opts})
    job_id = ended["finished"]
    assert ended["returnvalue"]["attempt"] == 3
    for gap, shortest, longest in zip(gaps(starts(node, job_id)), least, most, strict=True):
        # The pause begins after the failure, so a little after the start.
        assert shortest <= gap <= longest + LATE_MS
    [job] = node.jobs(CHAT, job_id)
    assert job["attemptsMade"] == job["attemptsStarted"] == 3
    assert job["state"] == "completed"
    assert len(job["stacktrace"]) == 2


def test_a_job_out_of_attempts_fails_with_all_its_traces(node, start, engine):
    start()
    engine.script(**FAULT, count=None)
    listener = node.start("listen", queue=CHAT)
    opts = {"attempts": 3, "backoff": {"type": "fixed", "delay": 50}}
    [ended] = node.ask(CHAT, {"data": chat("hi"), "opts": opts})
    assert ended["error"].startswith("crashed: ")
    [job] = node.jobs(CHAT, ended["finished"])
    assert job["state"] == "failed"
    assert job["attemptsMade"] == 3
    assert len(job["stacktrace"]) == 3
    exhausted = listener.wait_for(lambda line: line["event"] == "retries-exhausted")
    assert exhausted["attemptsMade"] == "3"
    order = [
        line["event"] for line in listener.finish() if line["event"] not in {"progress", "drained"}
    ]
    once = ["active", "delayed", "waiting"]
    assert order[-8 - 1 :] == [*once, *once, "active", "failed", "retries-exhausted"]


def test_an_unknown_backoff_fails_the_job_and_says_so(node, start, engine):
    start()
    engine.script(**FAULT, error="the first reason")
    opts = {"attempts": 5, "backoff": {"type": "fibonacci", "delay": 10}}
    [ended] = node.ask(CHAT, {"data": chat("hi"), "opts": opts})
    assert "unknown backoff type 'fibonacci'" in ended["error"]
    assert "the first reason" in ended["error"]
    [job] = node.jobs(CHAT, ended["finished"])
    assert job["state"] == "failed"
    assert job["attemptsMade"] == 1


@pytest.mark.parametrize("delay", [300, 1500])
def test_a_delayed_job_runs_at_its_time(node, start, delay):
    start()
    [ended] = node.ask("echo", {"data": {"text": "x"}, "opts": {"delay": delay}})
    [job] = node.jobs("echo", ended["finished"])
    late = job["processedOn"] - (job["timestamp"] + delay)
    assert 0 <= late <= 500


def test_a_job_is_not_held_back_by_a_delayed_one(node, start):
    start()
    [held] = node.add("echo", {"data": {"text": "later"}, "opts": {"delay": 60_000}})
    [ended] = node.ask("echo", {"data": {"text": "now"}}, within=3)
    assert ended["returnvalue"]["answer"] == "now"
    [job] = node.jobs("echo", held)
    assert job["state"] == "delayed"


def run_paused(node, *jobs):
    """Add jobs to a paused queue, resume it, and return the order of their names."""
    node.run("queue", queue="echo", do="pause")
    ids = node.add("echo", *jobs)
    listener = node.start("listen", queue="echo")
    # Another job of the same worker ends meanwhile: it had its chance to take a paused one.
    node.ask(CHAT, {"data": chat("barrier")})
    assert [job.get("processedOn") for job in node.jobs("echo", *ids)] == [None] * len(ids)
    node.run("queue", queue="echo", do="resume")
    last = set()

    def ended(line):
        if line["event"] == "completed":
            last.add(line["jobId"])
        return last == set(ids)

    listener.wait_for(ended)
    began = [line["jobId"] for line in listener.finish() if line["event"] == "active"]
    return [jobs[ids.index(job_id)]["data"]["text"] for job_id in began]


def test_priorities_order_one_slot(node, start):
    start(concurrency=1)
    jobs = [
        {"data": {"text": str(n)}, "opts": {"priority": n} if n else {}} for n in (3, 1, 0, 2, 1, 0)
    ]
    assert run_paused(node, *jobs) == ["0", "0", "1", "1", "2", "3"]


def test_lifo_jobs_run_last_first(node, start):
    start(concurrency=1)
    jobs = [{"data": {"text": str(n)}, "opts": {"lifo": True}} for n in range(4)]
    assert run_paused(node, *jobs) == ["3", "2", "1", "0"]


def test_jobs_run_in_the_order_in_which_they_came(node, start):
    start(concurrency=1)
    jobs = [{"data": {"text": str(n)}} for n in range(8)]
    assert run_paused(node, *jobs) == [str(n) for n in range(8)]

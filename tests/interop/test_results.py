"""What a Node application gets back: results, progress, failures."""

from __future__ import annotations

import json

from tests.interop.support import CHAT, chat

FAULT = {"path": "/api/chat", "action": "status", "status": 500}


def of_job(lines, job_id):
    return [line for line in lines if line.get("jobId") == job_id]


def test_waiting_for_a_chat_job_gives_the_whole_envelope(node, start):
    start()
    [ended] = node.ask(CHAT, {"data": chat("the sky is blue")})
    envelope = ended["returnvalue"]
    assert list(envelope) == [
        *("type", "answer", "model", "usage", "timings", "fallback", "attempt", "worker"),
        "warnings",
    ]
    answer = envelope["answer"]
    assert answer["message"] == {"role": "assistant", "content": "the sky is blue"}
    assert answer["done"] is True
    assert answer["done_reason"] == "stop"
    assert answer["eval_count"] == 4
    assert envelope["type"] == "chat"
    assert envelope["model"] == {"asked": "llama3", "used": "llama3"}
    assert envelope["usage"] == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
    assert envelope["fallback"] is None
    assert envelope["attempt"] == 1
    assert envelope["worker"] == "worker-1"
    assert envelope["warnings"] == []
    timings = envelope["timings"]
    assert set(timings) == {
        *("queue_wait_ms", "admission_ms", "load_ms", "first_token_ms", "total_ms"),
    }
    assert 0 < timings["first_token_ms"] <= timings["total_ms"] < 10_000
    assert 0 <= timings["queue_wait_ms"] < 10_000


def test_a_job_tells_node_who_ran_it_and_how_far_it_was(node, start, engine):
    start()
    engine.behave(token_seconds=0.2)
    [job_id] = node.add(CHAT, {"data": chat("one two three four five six seven")})
    listener = node.start("listen", queue=CHAT)
    listener.wait_for(lambda line: line["event"] == "completed")
    lines = of_job(listener.finish(), job_id)
    [job] = node.jobs(CHAT, job_id)

    order = [line["event"] for line in lines]
    assert order[:3] == ["added", "waiting", "active"]
    assert order[-1] == "completed"
    assert set(order[3:-1]) == {"progress"}
    reported = [line["data"] for line in lines if line["event"] == "progress"]
    assert all(set(value) == {"phase", "tokens"} for value in reported)
    tokens = [value["tokens"] for value in reported if value["phase"] == "generating"]
    assert tokens == sorted(tokens)
    assert tokens[-1] > 0
    assert job["progress"] == reported[-1]
    assert job["processedBy"] == "worker-1"
    assert job["state"] == "completed"
    assert job["attemptsMade"] == job["attemptsStarted"] == 1
    assert job["timestamp"] <= job["processedOn"] <= job["finishedOn"]
    assert job["logs"] == []


def test_an_engine_failure_shows_in_node_with_reason_and_trace(node, start, engine):
    start()
    engine.script(**FAULT, error="out of luck")
    [ended] = node.ask(CHAT, {"data": chat("hi")})
    assert "out of luck" in ended["error"]
    [job] = node.jobs(CHAT, ended["finished"])
    assert job["state"] == "failed"
    assert job["failedReason"] == ended["error"]
    assert job["failedReason"].startswith("crashed: ")
    assert len(job["stacktrace"]) == 1
    assert "EngineError" in job["stacktrace"][0]
    assert job["returnvalue"] is None


def test_bad_data_fails_at_once_and_names_every_path(node, start):
    start()
    data = {"messages": [{"role": "user"}, {"role": "wizard", "content": 7}], "format": 3}
    job = {"data": data, "opts": {"attempts": 3, "backoff": 60_000}}
    [ended] = node.ask(CHAT, job)
    for path in ("model: missing", "messages[1].role: ", "messages[1].content: ", "format: "):
        assert path in ended["error"]
    [found] = node.jobs(CHAT, ended["finished"])
    assert found["state"] == "failed"
    assert found["attemptsMade"] == 1


def test_removed_jobs_still_answer_those_who_wait(node, start, valkey):
    start()
    jobs = [{"data": chat(f"job {n}"), "opts": {"removeOnComplete": True}} for n in range(3)]
    ended = node.ask(CHAT, *jobs, hold=True)
    said = [line["returnvalue"]["answer"]["message"]["content"] for line in ended]
    assert said == ["job 0", "job 1", "job 2"]
    assert node.jobs(CHAT, *[line["finished"] for line in ended]) == [None, None, None]
    assert valkey.client.zcard("bull:llm-chat:completed") == 0


def test_finished_jobs_are_kept_as_their_options_say(node, start, valkey):
    start(concurrency=1)

    def completed(*keeps):
        valkey.client.flushall()
        jobs = [{"data": {"text": "x"}, "opts": {"removeOnComplete": keep}} for keep in keeps]
        node.ask("echo", *jobs)
        return valkey.client.zcard("bull:echo:completed")

    assert completed(2, 2, 2, 2) == 2
    assert completed(*[{"count": 3, "age": 3600}] * 5) == 3
    assert completed(*[{"age": 3600}] * 3) == 3
    assert completed(False, False) == 2
    assert completed(1e15, 1e15) == 2


def test_failed_jobs_are_kept_as_their_options_say(node, start, valkey):
    start(concurrency=1)
    removed = {"data": {}, "opts": {"removeOnFail": True}}
    kept = {"data": {}, "opts": {"removeOnFail": 1}}
    ended = node.ask("echo", removed, kept, kept, hold=True)
    assert all("text: missing" in line["error"] for line in ended)
    assert valkey.client.zcard("bull:echo:failed") == 1


def test_a_large_result_is_a_pointer_that_one_get_follows(node, start, valkey):
    start(config="[results]\ninline_limit = 2000\nttl = '1h'")
    text = "word " * 1000
    [ended] = node.ask(CHAT, {"data": chat(text)})
    envelope = ended["returnvalue"]
    assert envelope["answer"] is None
    stored = envelope["stored"]
    assert stored["key"] == f"bull:llm-chat:{ended['finished']}:result"
    assert stored["ttl_seconds"] == 3600
    raw = valkey.client.get(stored["key"])
    assert len(raw) == stored["bytes"]
    whole = json.loads(raw)
    assert whole["answer"]["message"]["content"] == text.rstrip()
    assert whole["usage"] == envelope["usage"]
    assert 3_500_000 < valkey.client.pttl(stored["key"]) <= 3_600_000


def test_a_listener_outlives_every_kind_of_end(node, start, engine):
    start(concurrency=1)
    listener = node.start("listen", queue=CHAT)
    listener.wait_for(lambda line: line["event"] == "listening")
    half = '{"model":"llama3","message":{"role":"assistant","content":"\\ud83d"},"done":false}'
    for fault in (
        {"action": "garbage", "text": half, "contains": "surrogate"},
        {"action": "error_line", "error": "half \ufffd and whole \U0001f600", "contains": "line"},
        {"action": "status", "status": 500, "error": '{"not": NaN}', "contains": "status"},
        {"action": "reset", "contains": "reset"},
    ):
        engine.script(path="/api/chat", **fault)
    texts = [
        "surrogate",
        "line",
        "status",
        "reset",
        "\U0001f600 \U0001f468\u200d\U0001f469",
        "\x00\x1f\u2028",
    ]
    ids = node.add(
        CHAT, *[{"data": chat(text)} for text in texts], {"data": None}, {"data": chat("last")}
    )
    listener.wait_for(lambda line: line["event"] == "completed" and line["jobId"] == ids[-1])
    lines = listener.finish()
    ends = {line["jobId"]: line for line in lines if line["event"] in {"completed", "failed"}}
    assert set(ends) == set(ids)
    assert [line for line in lines if line["event"] == "error"] == []
    assert [ends[job_id]["event"] for job_id in ids[1:]] == [
        *("failed", "failed", "failed", "completed", "completed", "failed", "completed"),
    ]
    said = ends[ids[4]]["returnvalue"]["answer"]["message"]["content"]
    assert said == texts[4]
    assert ends[ids[-1]]["returnvalue"]["answer"]["message"]["content"] == "last"


def test_counts_are_right_at_once(node, start):
    start()
    lines = node.run(
        "produce",
        queue="echo",
        jobs=[{"data": {"text": "x"}}] * 5 + [{"data": {}}] * 2,
        waitMs=20_000,
    )
    assert lines[-1]["counts"] == {
        **dict.fromkeys(("active", "delayed", "prioritized", "waiting", "waiting-children"), 0),
        "completed": 5,
        "failed": 2,
    }


def test_node_lists_the_worker_by_name_once_for_each_queue(node, start):
    start(worker="gpu-7")
    start(worker="gpu-8")
    [line] = node.run("inspect", queue=CHAT)
    names = sorted(worker["rawname"].rpartition(":w:")[2] for worker in line["workers"])
    assert names == ["gpu-7", "gpu-8"]


def test_charts_count_what_ended(node, start):
    start(config="[queue]\nchart_minutes = 60\n")
    jobs = [{"data": {"text": "x"}}] * 3 + [{"data": {}}] * 2
    node.run("produce", queue="echo", jobs=jobs, waitMs=20_000)
    [line] = node.run("inspect", queue="echo")
    assert line["charts"] == {"completed": 3, "failed": 2}

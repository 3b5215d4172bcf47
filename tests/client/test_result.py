"""Reading results: envelopes of ours, of newer workers, and whatever others return."""

from __future__ import annotations

import json

from worker_core.client.result import ModelUse, Result, Timings, Usage, read_result

ENVELOPE = {
    "type": "chat",
    "answer": {"model": "llama3:latest", "message": {"role": "assistant", "content": "hi"}},
    "model": {"asked": "llama3", "used": "llama3:latest"},
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "timings": {"queue_wait_ms": 1.5, "admission_ms": None, "total_ms": 9},
    "fallback": None,
    "attempt": 2,
    "worker": "w1",
    "warnings": ["careful"],
}


def read(**changes):
    return read_result(json.dumps({**ENVELOPE, **changes}).encode())


def test_an_envelope_is_read():
    assert read() == Result(
        type="chat",
        answer=ENVELOPE["answer"],
        model=ModelUse(asked="llama3", used="llama3:latest"),
        usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
        timings=Timings(queue_wait_ms=1.5, total_ms=9),
        attempt=2,
        worker="w1",
        warnings=("careful",),
    )
    assert read().text == "hi"
    assert json.loads(read().raw) == ENVELOPE


def test_what_a_newer_worker_adds_is_ignored():
    newer = read(cost=3, usage={**ENVELOPE["usage"], "cached_tokens": 1})
    assert newer == read()


def test_a_member_that_cannot_be_read_costs_a_warning_not_the_answer():
    newer = read(timings={"total_ms": "9ms"}, attempt="second")
    assert newer.answer == ENVELOPE["answer"]
    assert (newer.timings, newer.attempt) == (Timings(), None)
    assert newer.warnings == (
        "careful",
        "the result's 'timings' could not be read: total_ms: expected a number, found text",
        "the result's 'attempt' could not be read: expected a whole number, found text",
    )


def test_a_fallback_is_passed_on():
    assert read(fallback={"strategy": "model", "why": "busy"}).fallback["strategy"] == "model"


def test_another_workers_return_value_is_the_answer():
    for value in ({"type": "x", "answer": 1}, {**ENVELOPE, "type": 1}, [1], "text", None, 3):
        result = read_result(json.dumps(value).encode())
        assert (result.type, result.answer, result.warnings) == (None, value, ())


def test_nearly_json_is_read_and_what_is_none_is_text():
    assert read_result(b"[1e400, 123456789012345678901234567890]").answer[1] > 2**64
    result = read_result(b"oops \xff")
    assert result.answer == "oops \N{REPLACEMENT CHARACTER}"
    assert "not JSON" in result.warnings[0]
    assert read_result(b"").answer == ""

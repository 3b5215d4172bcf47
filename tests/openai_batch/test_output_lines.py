"""Output lines: answers as OpenAI's responses, failures as theirs, and what did not run."""

from __future__ import annotations

import json

import pytest

from worker_core.client import BatchStatus, ItemError, ItemResult, ItemStatus, Result, Usage
from worker_core.errors import FailureClass
from worker_core.openai_batch import LineWriter, Target
from worker_core.openai_batch.output_lines import _REFUSALS

USAGE = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
NOT_ENDED = [
    BatchStatus.VALIDATING,
    BatchStatus.IN_PROGRESS,
    BatchStatus.FINALIZING,
    BatchStatus.CANCELLING,
]


def writer(status=BatchStatus.COMPLETED, reason=None):
    return LineWriter(batch_id="batch_ab", status=status, reason=reason, created=1000)


def read(line):
    assert line.text.endswith(b"\n")
    assert line.text.count(b"\n") == 1
    return json.loads(line.text)


def completed(answer, job_type="chat"):
    return ItemResult(
        index=4,
        custom_id="r4",
        type=job_type,
        status=ItemStatus.COMPLETED,
        result=Result(answer=answer, type=job_type, usage=USAGE),
    )


def body_of(answer, job_type="chat"):
    line = writer().line(completed(answer, job_type))
    assert line.target is Target.OUTPUT
    whole = read(line)
    assert (whole["id"], whole["custom_id"], whole["error"]) == ("batch_req_ab_4", "r4", None)
    assert whole["response"]["status_code"] == 200
    assert whole["response"]["request_id"]
    return whole["response"]["body"]


def chat_answer(done_reason="stop", **message):
    said = {"role": "assistant", "content": "four", **message}
    created = "2026-01-02T03:04:05.123456789Z"
    answer = {"model": "llama3:latest", "created_at": created, "message": said, "done": True}
    return {**answer, "done_reason": done_reason}


def test_a_chat():
    assert body_of(chat_answer()) == {
        "id": "chatcmpl-ab_4",
        "object": "chat.completion",
        "created": 1767323045,
        "model": "llama3:latest",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "four", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "system_fingerprint": None,
    }


def test_an_answer_that_does_not_say_when_it_was_made():
    assert body_of({**chat_answer(), "created_at": None})["created"] == 1000
    assert body_of({**chat_answer(), "created_at": "yesterday"})["created"] == 1000


def test_why_an_answer_ended():
    assert body_of(chat_answer("length"))["choices"][0]["finish_reason"] == "length"
    assert body_of(chat_answer(None))["choices"][0]["finish_reason"] == "stop"


def test_calls_of_tools_and_thoughts():
    calls = [
        {"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": [1, "ü"]}}},
        {"function": {"name": "g", "arguments": {}}},
    ]
    [choice] = body_of(chat_answer(content="", thinking="hm", tool_calls=calls))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert (message["content"], message["reasoning"]) == (None, "hm")
    first, second = message["tool_calls"]
    assert first["id"] == "c1"
    assert json.loads(first["function"]["arguments"]) == {"a": [1, "ü"]}
    assert second == {
        "id": "call_ab_4_1",
        "type": "function",
        "function": {"name": "g", "arguments": "{}"},
    }


def test_embeddings():
    vectors = [[0.5, 1.0], "AAAAPw=="]
    answer = {"model": "nomic", "embeddings": vectors, "dimensions": 2}
    assert body_of(answer, "embeddings") == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": vectors[0]},
            {"object": "embedding", "index": 1, "embedding": vectors[1]},
        ],
        "model": "nomic",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


@pytest.mark.parametrize("job_type", ["chat", "embeddings", "echo"])
def test_an_answer_of_another_form_is_given_as_it_is(job_type):
    assert body_of({"said": "hi"}, job_type) == {"said": "hi"}
    assert body_of("hi", job_type) == "hi"


def failed(failure):
    return ItemResult(
        index=0,
        custom_id="r0",
        type="chat",
        status=ItemStatus.FAILED,
        error=ItemError(failure, "no luck"),
    )


@pytest.mark.parametrize(
    ("failure", "status", "kind", "code"),
    [
        ("bad_input", 400, "invalid_request_error", "bad_input"),
        ("invalid_request", 400, "invalid_request_error", "invalid_request"),
        ("model_missing", 404, "invalid_request_error", "model_not_found"),
        ("deadline", 504, "server_error", "deadline"),
        ("crashed", 500, "server_error", "crashed"),
        ("of a newer worker", 500, "server_error", "of a newer worker"),
    ],
)
def test_a_failure_is_the_response_that_it_would_have_been(failure, status, kind, code):
    line = writer().line(failed(failure))
    assert line.target is Target.ERRORS
    whole = read(line)
    assert whole["error"] is None
    assert whole["response"]["status_code"] == status
    assert whole["response"]["body"] == {
        "error": {"message": "no luck", "type": kind, "param": None, "code": code}
    }


def test_every_failure_of_an_engine_has_a_status():
    assert {failure.value for failure in FailureClass} <= set(_REFUSALS)


def not_run():
    return ItemResult(index=9, custom_id="r9", type="chat", status=ItemStatus.NOT_RUN)


@pytest.mark.parametrize("status", NOT_ENDED)
def test_what_may_still_run_has_no_line(status):
    assert writer(status).line(not_run()) is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (BatchStatus.EXPIRED, "batch_expired"),
        (BatchStatus.CANCELLED, "batch_cancelled"),
        (BatchStatus.FAILED, "batch_failed"),
        (None, "batch_failed"),
    ],
)
def test_what_did_not_run_says_why(status, code):
    line = writer(status, reason="an item failed").line(not_run())
    assert line.target is Target.ERRORS
    whole = read(line)
    assert (whole["custom_id"], whole["response"]) == ("r9", None)
    assert whole["error"]["code"] == code
    assert ("an item failed" in whole["error"]["message"]) == (code == "batch_failed")

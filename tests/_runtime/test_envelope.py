"""The result envelope: one form for every job type, as strict JSON."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import Any

import attrs
import pytest

from worker_core._runtime.engine_use import EngineUse
from worker_core._runtime.envelope import Envelope, write_envelope, write_pointer
from worker_core._runtime.fallbacks import FallbackUse
from worker_core.engine import ChatAnswer, EmbedAnswer, Message
from worker_core.strict_json import Unpublishable

USE = EngineUse(
    model_asked="llama3",
    model_used="llama3:latest",
    admission_seconds=1.5,
    load_seconds=1.25,
    first_token_seconds=0.0624999,
    prompt_tokens=3,
    completion_tokens=4,
    warnings=["from the engine"],
)
ENVELOPE = Envelope(
    type="chat",
    attempt=2,
    worker="w1",
    queue_wait=0.125,
    total=2.5,
    use=USE,
    warnings=("from the job",),
)


def written(answer: object, envelope: Envelope = ENVELOPE) -> Any:
    return json.loads(write_envelope(envelope, answer))


def test_every_member_is_there_in_the_order_in_which_it_is_read() -> None:
    envelope = written("hi")
    assert envelope == {
        "type": "chat",
        "answer": "hi",
        "model": {"asked": "llama3", "used": "llama3:latest"},
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        "timings": {
            "queue_wait_ms": 125,
            "admission_ms": 1500,
            "load_ms": 1250,
            "first_token_ms": 62.5,
            "total_ms": 2500,
        },
        "fallback": None,
        "attempt": 2,
        "worker": "w1",
        "warnings": ["from the engine", "from the job"],
    }
    assert list(envelope) == [
        "type",
        "answer",
        "model",
        "usage",
        "timings",
        "fallback",
        "attempt",
        "worker",
        "warnings",
    ]


def test_a_fallback_says_who_answered_and_why_and_what_it_likes_beside_that() -> None:
    def fallback_of(reason: str | None, **detail: Any) -> Any:
        way = FallbackUse(strategy="cache", reason=reason, detail=detail)
        return written("hi", attrs.evolve(ENVELOPE, use=attrs.evolve(USE, fallback=way)))[
            "fallback"
        ]

    told = fallback_of("timeout: no token", age_seconds=1.5, strategy="another")
    assert told == {"strategy": "cache", "reason": "timeout: no token", "age_seconds": 1.5}
    assert list(told) == ["strategy", "reason", "age_seconds"]
    assert fallback_of(None) == {"strategy": "cache", "reason": None}


def test_a_job_without_an_engine_has_the_same_members() -> None:
    plain = written(None, attrs.evolve(ENVELOPE, use=EngineUse(), warnings=()))
    assert plain.keys() == written("hi").keys()
    assert plain["answer"] is None
    assert plain["model"] == {"asked": None, "used": None}
    assert plain["usage"]["total_tokens"] == 0
    assert plain["timings"]["load_ms"] is None
    assert plain["timings"]["first_token_ms"] is None
    assert plain["warnings"] == []


def test_times_are_never_negative() -> None:
    envelope = attrs.evolve(ENVELOPE, queue_wait=-1.0, total=-0.0)
    assert written(1, envelope)["timings"]["queue_wait_ms"] == 0


def test_a_chat_answer_has_the_form_of_ollamas_own() -> None:
    answer = ChatAnswer(
        model="llama3",
        created_at="2026-01-01T00:00:00Z",
        message=Message(
            "assistant",
            "hello",
            thinking="hm",
            tool_calls=({"function": {"name": "f", "arguments": {"a": None}}},),
        ),
        done_reason="stop",
        total_duration=5,
        load_duration=1,
        prompt_eval_count=3,
        prompt_eval_duration=2,
        eval_count=4,
        eval_duration=2,
        warnings=("not for the answer",),
    )
    assert written(answer)["answer"] == {
        "model": "llama3",
        "created_at": "2026-01-01T00:00:00Z",
        "message": {
            "role": "assistant",
            "content": "hello",
            "thinking": "hm",
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": None}}}],
        },
        "done": True,
        "done_reason": "stop",
        "total_duration": 5,
        "load_duration": 1,
        "prompt_eval_count": 3,
        "prompt_eval_duration": 2,
        "eval_count": 4,
        "eval_duration": 2,
    }


def test_what_ollama_does_not_say_is_absent_and_an_empty_text_is_not() -> None:
    answer = ChatAnswer(model="m", message=Message("assistant"))
    assert written(answer)["answer"] == {
        "model": "m",
        "message": {"role": "assistant", "content": ""},
        "done": True,
    }


@attrs.frozen
class Inner:
    values: tuple[float, ...]
    label: str | None = None


@attrs.frozen
class Outer:
    inner: Inner
    by_name: dict[str, Inner]


def test_an_attrs_answer_is_written_with_everything_in_it() -> None:
    answer = Outer(Inner((1.5, 2.0)), {"a": Inner((), "x")})
    assert written(answer)["answer"] == {
        "inner": {"values": [1.5, 2.0], "label": None},
        "by_name": {"a": {"values": [], "label": "x"}},
    }
    vectors = EmbedAnswer(model="m", embeddings=((0.25, 0.5),))
    assert written(vectors)["answer"]["embeddings"] == [[0.25, 0.5]]


@pytest.mark.parametrize("answer", [0, "", [], {}, False, [None], {"a": {"b": [1, "x", None]}}])
def test_whatever_json_can_carry_may_be_an_answer(answer: object) -> None:
    assert written(answer)["answer"] == answer


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (math.nan, "not a finite number"),
        ({"score": [1.0, math.inf]}, r"score\[1\]: not a finite number"),
        (Inner((math.nan,)), r"values\[0\]: not a finite number"),
        (2**64, "an integer beyond 64 bits"),
        pytest.param(object(), "not JSON", id="an object"),
        ({1: 2}, "not JSON"),
    ],
    ids=repr,
)
def test_what_json_cannot_carry_is_refused(answer: object, where: str) -> None:
    with pytest.raises(Unpublishable, match=where):
        write_envelope(ENVELOPE, answer)


def test_half_an_emoji_is_replaced_wherever_it_stands() -> None:
    envelope = attrs.evolve(
        ENVELOPE, warnings=("half \ud83d",), use=attrs.evolve(USE, model_used="m\ud83d")
    )
    found = written({"text": "half \ud83d", "nothing": None}, envelope)
    assert found["answer"] == {"text": "half �", "nothing": None}
    assert found["warnings"][-1] == "half �"
    assert found["model"]["used"] == "m�"


def test_a_pointer_has_the_envelope_without_the_answer() -> None:
    pointer = json.loads(
        write_pointer(ENVELOPE, key="bull:q:7:result", size=300_000, ttl=timedelta(days=1))
    )
    whole = written("hi")
    assert pointer.pop("stored") == {
        "key": "bull:q:7:result",
        "bytes": 300_000,
        "ttl_seconds": 86_400,
    }
    assert pointer == {**whole, "answer": None}

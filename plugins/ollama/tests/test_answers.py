"""Reading answers: any cut of the bytes gives the same answer, and no broken one passes."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_core_ollama.answers import (
    BrokenAnswer,
    ChatReader,
    ErrorLine,
    read_embeddings,
    read_loaded,
    read_model_info,
)
from worker_core_ollama.ndjson import MAX_LINE, LineSplitter, LineTooLong

from worker_core.engine import ChatAnswer, ChatChunk, ModelInfo

NOW = datetime(2026, 8, 1, tzinfo=UTC)
DONE = {"model": "m", "done": True, "done_reason": "stop", "eval_count": 2, "total_duration": 5}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
messages = st.fixed_dictionaries(
    {"content": texts},
    optional={
        "role": st.just("assistant"),
        "thinking": texts,
        "tool_calls": st.just([{"function": {"name": "f", "arguments": {}}}]),
    },
)


def ndjson(*lines: object) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def read(*parts: bytes) -> tuple[ChatAnswer, list[ChatChunk]]:
    chunks: list[ChatChunk] = []
    reader = ChatReader("asked", chunks.append)
    for part in parts:
        reader.feed(part)
    return reader.finish(("careful",)), chunks


@given(messages=st.lists(messages, max_size=5), cuts=st.lists(st.integers(0, 800), max_size=20))
def test_the_network_may_cut_anywhere(messages: list[dict[str, object]], cuts: list[int]) -> None:
    whole = ndjson(*({"message": message, "done": False} for message in messages), DONE)
    places = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
    parts = [whole[a:b] for a, b in itertools.pairwise(places)]
    answer, chunks = read(*parts)
    assert (answer, chunks) == read(whole)
    assert answer.message.content == "".join(str(message["content"]) for message in messages)
    assert "".join(chunk.content for chunk in chunks) == answer.message.content
    assert "".join(chunk.thinking for chunk in chunks) == (answer.message.thinking or "")


def test_everything_is_accumulated() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    answer, chunks = read(
        ndjson(
            {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
            {"message": {"content": "a"}, "logprobs": [{"token": "a"}], "done": False},
            {"message": {"content": "", "tool_calls": [call]}, "done": False},
            {"message": {"content": "b"}, "logprobs": [{"token": "b"}], **DONE, "new_field": 1},
        )
    )
    assert answer.message.content == "ab"
    assert answer.message.thinking == "hm"
    assert answer.message.tool_calls == (call,)
    assert answer.logprobs == [{"token": "a"}, {"token": "b"}]
    assert (answer.model, answer.done_reason, answer.eval_count) == ("m", "stop", 2)
    assert answer.load_duration is None
    assert answer.warnings == ("careful",)
    assert chunks == [
        ChatChunk("", "hm"),
        ChatChunk("a"),
        ChatChunk(tool_calls=(call,)),
        ChatChunk("b"),
    ]


def test_a_last_line_without_its_end_counts() -> None:
    answer, _ = read(ndjson({"message": {"content": "a"}, "done": False}), orjson.dumps(DONE))
    assert answer.message.content == "a"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        ndjson({"message": {"content": "a"}, "done": False}),
        ndjson({"message": {"content": "a"}, "done": False}) + b"{not json\n",
        ndjson({"message": {"content": "a"}, "done": False}) + b'{"done": tr',
        ndjson([1, 2]),
        ndjson({"message": {"content": 5}, "done": True}),
        ndjson({"message": {"content": "a"}, "eval_count": "many", "done": True}),
        b'{"done": true, "eval_count": NaN}\n',
    ],
)
def test_broken_answers_are_no_answers(raw: bytes) -> None:
    with pytest.raises(BrokenAnswer):
        read(raw)


@pytest.mark.parametrize("error", ["it died", {"message": "it died", "code": 500}])
def test_an_error_line_ends_the_answer(error: object) -> None:
    with pytest.raises(ErrorLine, match="it died"):
        read(ndjson({"message": {"content": "Hello! How"}, "done": False}, {"error": error}))


def test_a_line_without_an_end_is_given_up() -> None:
    splitter = LineSplitter()
    assert not list(splitter.feed(b"x" * MAX_LINE))
    with pytest.raises(LineTooLong):
        list(splitter.feed(b"x"))


def test_vectors_come_in_order() -> None:
    raw = orjson.dumps({"model": "m", "embeddings": [[1, 0.5], [0.25, 0]], "prompt_eval_count": 4})
    answer = read_embeddings(raw, "asked", 2)
    assert list(answer.embeddings) == [(1, 0.5), (0.25, 0)]
    assert answer.prompt_eval_count == 4


@pytest.mark.parametrize(
    ("embeddings", "why"),
    [
        ([[1.0]], "1 vectors for 2 inputs"),
        (None, "0 vectors for 2 inputs"),
        ([[1.0], [1.0, 2.0]], "different lengths"),
        ([[1.0], [None]], "vector 1 is empty or not of finite numbers"),
        ([[1.0], []], "vector 1"),
        ([["1.0"], [1.0]], "vector 0"),
        ([[1.0], "no"], "vector 1"),
        ([[1e308, 1e308, 1e308], [1.0, 1.0, 1.0]], "vector 0"),
    ],
)
def test_vectors_that_are_none(embeddings: object, why: str) -> None:
    with pytest.raises(BrokenAnswer, match=why):
        read_embeddings(orjson.dumps({"embeddings": embeddings}), "m", 2)


def test_stopping_models_do_not_count_as_loaded() -> None:
    raw = orjson.dumps(
        {
            "models": [
                {"name": "Llama3", "expires_at": "2026-08-01T00:05:00.123456789+02:00"},
                {"name": "b:1b", "expires_at": "2318-11-01T02:00:00.5Z"},
                {"name": "c:7b", "expires_at": "when it likes"},
                {"name": "d:7b"},
                {"name": "stopping:latest", "expires_at": "2026-07-31T23:59:00Z"},
            ]
        }
    )
    expected = {"b:1b", "c:7b", "d:7b"}
    assert read_loaded(raw, NOW) == expected
    earlier = datetime(2026, 7, 31, 22, tzinfo=UTC)
    assert read_loaded(raw, earlier) == {*expected, "llama3:latest", "stopping:latest"}
    assert read_loaded(b'{"models": null}', NOW) == frozenset()


@pytest.mark.parametrize(
    ("shown", "info"),
    [
        (
            {
                "capabilities": ["completion", "vision"],
                "model_info": {
                    "general.architecture": "llama",
                    "llama.rope.original.context_length": 1,
                    "llama.context_length": 8192,
                    "llama.embedding_length": 2,
                },
            },
            ModelInfo(capabilities=frozenset({"completion", "vision"}), context_length=8192),
        ),
        ({"capabilities": []}, ModelInfo(capabilities=frozenset())),
        ({"model_info": {"llama.context_length": "long"}}, ModelInfo()),
        ({}, ModelInfo()),
    ],
)
def test_what_a_model_can_do(shown: object, info: ModelInfo) -> None:
    assert read_model_info(orjson.dumps(shown)) == info


def test_what_describes_no_model() -> None:
    with pytest.raises(BrokenAnswer):
        read_model_info(b'{"capabilities": "all"}')

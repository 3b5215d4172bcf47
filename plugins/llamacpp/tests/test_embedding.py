"""Requests for vectors and their replies, without a process."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_core_llamacpp.embedding import (
    embedding_request,
    may_exceed,
    read_embedding,
    read_tokens,
)

from worker_core.errors import EngineError, FailureClass

COMPONENTS = st.floats(-1, 1, allow_subnormal=False)


def reply(*vectors: object, **more: object) -> bytes:
    data = [{"object": "embedding", "index": 0, "embedding": vector} for vector in vectors]
    return orjson.dumps({"object": "list", "data": data, **more})


def test_a_text_and_its_tokens_are_asked_for_alike() -> None:
    assert embedding_request("hello") == {"input": ["hello"]}
    # Without the list around them the tokens would be texts of their own.
    assert embedding_request([2, 23391]) == {"input": [[2, 23391]]}


def test_the_vector_and_its_tokens_are_read() -> None:
    read = read_embedding(reply([0.6, -0.8], usage={"prompt_tokens": 5, "total_tokens": 5}), "m")
    assert (read.vector, read.tokens) == ((0.6, -0.8), 5)
    assert read_embedding(reply([1]), "m").tokens is None


@given(vector=st.lists(COMPONENTS, min_size=1, max_size=40), data=st.data())
def test_fewer_dimensions_are_the_first_of_them_at_norm_1(
    vector: list[float], data: st.DataObject
) -> None:
    dimensions = data.draw(st.integers(1, len(vector)))
    read = read_embedding(reply(vector), "m", dimensions).vector
    assert len(read) == dimensions
    if dimensions == len(vector):
        assert read == tuple(vector)
    elif norm := math.hypot(*vector[:dimensions]):
        assert math.hypot(*read) == pytest.approx(1)
        assert [number * norm for number in read] == pytest.approx(vector[:dimensions])


def test_more_dimensions_than_there_are_cannot_be_had() -> None:
    with pytest.raises(EngineError, match="2 dimensions, not of 3") as caught:
        read_embedding(reply([0.6, 0.8]), "m", 3)
    assert caught.value.failure is FailureClass.UNSUPPORTED


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        reply(),
        reply([1], [1]),
        reply([]),
        reply(None),
        reply("ab"),
        reply([[1]]),
        reply([1, None]),
        reply({"1": 1}),
        reply([1], usage={"prompt_tokens": "many"}),
    ],
)
def test_broken_replies_hold_no_vector(raw: bytes) -> None:
    with pytest.raises(EngineError) as caught:
        read_embedding(raw, "m")
    assert caught.value.failure is FailureClass.INCOMPLETE


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def outcome(raw: bytes) -> FailureClass | None:
    """Return how reading a reply failed; `None` for a vector, which is one of finite numbers."""
    try:
        vector = read_embedding(raw, "m").vector
    except EngineError as error:
        return error.failure
    assert all(map(math.isfinite, vector))
    return None


@given(vector=st.lists(st.floats() | st.integers() | ANYTHING, max_size=3) | ANYTHING)
def test_whatever_comes_is_a_vector_or_incomplete(vector: Any) -> None:
    raw = json.dumps({"data": [{"embedding": vector}]}).encode()
    assert outcome(raw) in {None, FailureClass.INCOMPLETE}


def test_tokens_are_numbers() -> None:
    assert read_tokens(b'{"tokens": [2, 3]}', "m") == [2, 3]
    for value in ({}, {"tokens": [{"id": 2}]}, [2]):
        with pytest.raises(EngineError) as caught:
            read_tokens(orjson.dumps(value), "m")
        assert caught.value.failure is FailureClass.INCOMPLETE


@given(text=st.text(max_size=60))
def test_no_text_of_fewer_bytes_than_the_limit_is_counted(text: str) -> None:
    # A vocabulary that knows nothing makes a token of each byte, and puts one at each end.
    worst = len(text.encode("utf-8")) + 2
    assert may_exceed(text, worst - 1)


def test_short_texts_are_not_counted() -> None:
    assert not may_exceed("a short text", 1023)
    assert may_exceed("word " * 400, 1023)

"""The data of an embedding job: what it may be, and what every fault is called."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_core_embeddings.request import EmbeddingsRequest

from worker_core.structure import InvalidData, structure


def request_of(**members: Any) -> EmbeddingsRequest:
    return structure({"model": "m", "input": "a", **members}, EmbeddingsRequest)


def faults_of(**members: Any) -> dict[str, str]:
    with pytest.raises(InvalidData) as caught:
        request_of(**members)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_one_text_and_a_list_of_texts_are_both_inputs() -> None:
    assert request_of(input="abc").texts == ("abc",)
    assert request_of(input=["abc", "d"]).texts == ("abc", "d")


@pytest.mark.parametrize(
    ("members", "path", "said"),
    [
        ({"model": ""}, "model", "must not be empty"),
        ({"input": ""}, "input", "must not be empty"),
        ({"input": []}, "input", "must not be empty"),
        ({"input": ["a", "", "b", ""]}, "input", "holds an empty text at 1, 3"),
        ({"input": ["a", *[""] * 9]}, "input", "at 1, 2, 3, 4, 5 and 4 more places"),
        ({"input": ["a", 5]}, "input", "text"),
        ({"input": 5}, "input", "text"),
        ({"dimensions": 0}, "dimensions", "must be >= 1"),
        ({"dimensions": "many"}, "dimensions", "number"),
        ({"encoding_format": "hex"}, "encoding_format", "base64"),
        ({"timeout": 0}, "timeout", "longer than nothing"),
        ({"timeout": "soon"}, "timeout", "expected a duration"),
        ({"timeout": 1e300}, "timeout", "not for ever"),
        ({"truncate": "no"}, "truncate", "true or false"),
    ],
)
def test_every_fault_is_named_by_its_path(members: dict[str, Any], path: str, said: str) -> None:
    found = faults_of(**members)
    ((where, message),) = found.items()
    assert where.startswith(path)
    assert said in message


def test_a_time_in_numbers_is_milliseconds_as_node_counts() -> None:
    assert request_of(timeout=1500).time_limit == timedelta(seconds=1.5)
    assert request_of(timeout="1m30s").time_limit == timedelta(seconds=90)
    assert request_of().time_limit is None


def test_what_is_asked_for_alike_is_of_one_kind() -> None:
    one = request_of(options={"a": 1, "b": 2}, input="x", encoding_format="base64")
    other = request_of(options={"b": 2, "a": 1}, input=["y", "z"], timeout=5, metadata={"n": 1})
    assert one.kind == other.kind
    assert hash(one.kind) == hash(other.kind)


@pytest.mark.parametrize(
    "members",
    [
        {"model": "other"},
        {"dimensions": 5},
        {"truncate": False},
        {"keep_alive": "5m"},
        {"options": {"a": 2}},
    ],
)
def test_what_is_asked_for_otherwise_is_of_another_kind(members: dict[str, Any]) -> None:
    assert request_of(options={"a": 1}).kind != request_of(**{"options": {"a": 1}, **members}).kind


def test_a_call_says_all_that_the_job_says() -> None:
    request = request_of(
        dimensions=5, truncate=False, keep_alive="5m", options={"num_keep": 2}, input=["x"]
    )
    call = request.kind.call(request.texts)
    assert (call.model, call.input, call.dimensions, call.truncate) == ("m", ("x",), 5, False)
    assert (call.keep_alive, call.options) == ("5m", {"num_keep": 2})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
members = st.sampled_from(
    ["model", "input", "dimensions", "truncate", "encoding_format", "options", "timeout"]
)


@settings(deadline=None)
@given(st.dictionaries(members, json_values, max_size=4))
def test_any_data_makes_a_request_or_is_refused_with_faults(data: dict[str, Any]) -> None:
    try:
        request = structure({"model": "m", "input": "a", **data}, EmbeddingsRequest)
        assert request.time_limit is None or request.time_limit > timedelta()
        assert all(request.texts)
    except InvalidData as error:
        faults = error.faults
    else:
        return
    assert all(fault.path for fault in faults)

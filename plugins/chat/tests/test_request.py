"""A chat job's data: Ollama's form, the common spellings, every fault by its path."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_core_chat.request import ChatRequest

from worker_core import ChatCall, InvalidRequest, Message
from worker_core.structure import InvalidData, structure

HELLO = [{"role": "user", "content": "hello"}]


def request_of(**members: Any) -> ChatRequest:
    return structure({"model": "llama3", "messages": HELLO, **members}, ChatRequest)


def faults_of(**members: Any) -> dict[str, str]:
    data = {"model": "llama3", "messages": HELLO, **members}
    with pytest.raises(InvalidData) as caught:
        structure({name: value for name, value in data.items() if value is not ...}, ChatRequest)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_streaming_is_asked_for_and_no_matter_of_the_engines() -> None:
    assert [request_of(**members).stream for members in ({}, {"stream": True})] == [False, True]
    assert request_of(stream=True).as_call() == request_of().as_call()
    assert faults_of(stream="yes").keys() == {"stream"}


def test_the_least_request_is_the_least_call() -> None:
    assert request_of().as_call() == ChatCall(model="llama3", messages=(Message("user", "hello"),))


def test_everything_that_ollama_takes_is_handed_on() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    tool_call = {"function": {"name": "f", "arguments": {"a": [1, None]}}}
    schema = {"type": "object", "properties": {"a": {"type": "number"}}}
    call = request_of(
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "look", "images": ["aGk="]},
            {"role": "assistant", "content": None, "thinking": "hm", "tool_calls": [tool_call]},
            {"role": "tool", "content": "4", "tool_name": "f", "tool_call_id": "c1"},
        ],
        options={"num_ctx": 2048, "temperature": 0},
        format=schema,
        tools=[tool],
        think="high",
        keep_alive="5m",
        metadata={"user": {"id": 7}},
    ).as_call()
    assert call == ChatCall(
        model="llama3",
        messages=(
            Message("system", "be brief"),
            Message("user", "look", images=("aGk=",)),
            Message("assistant", "", thinking="hm", tool_calls=(tool_call,)),
            Message("tool", "4", tool_name="f", tool_call_id="c1"),
        ),
        options={"num_ctx": 2048, "temperature": 0},
        format=schema,
        tools=(tool,),
        think="high",
        keep_alive="5m",
    )


def test_the_common_spellings_become_options() -> None:
    call = request_of(
        temperature=0.5, top_p=1, max_tokens=100, stop="END", seed=7, options={"num_ctx": 512}
    ).as_call()
    assert call.options == {
        "num_ctx": 512,
        "temperature": 0.5,
        "top_p": 1,
        "num_predict": 100,
        "stop": ["END"],
        "seed": 7,
    }
    assert request_of(stop=["a", "b"]).as_call().options == {"stop": ["a", "b"]}


def test_a_spelling_that_is_null_says_nothing() -> None:
    request = request_of(temperature=None, stop=None, options={"temperature": 1})
    assert request.as_call().options == {"temperature": 1}


def test_nought_is_said() -> None:
    assert request_of(temperature=0, seed=0).as_call().options == {"temperature": 0, "seed": 0}


def test_what_is_said_twice_is_refused_with_every_place() -> None:
    request = request_of(
        seed=1, max_tokens=5, temperature=1, options={"seed": 1, "num_predict": 9, "top_k": 3}
    )
    with pytest.raises(InvalidRequest) as caught:
        request.as_call()
    assert {fault.path: fault.message for fault in caught.value.faults} == {
        "seed": "is said again by options.seed; give one of them",
        "max_tokens": "is said again by options.num_predict; give one of them",
    }


def test_the_options_of_a_request_are_not_changed_by_its_call() -> None:
    request = request_of(options={"num_ctx": 1}, seed=3)
    request.as_call()
    assert request.options == {"num_ctx": 1}


@pytest.mark.parametrize(
    ("members", "faults"),
    [
        ({"model": ...}, {"model": "missing"}),
        ({"model": ""}, {"model": "must not be empty"}),
        ({"model": 3}, {"model": "expected text, found a number"}),
        ({"messages": ...}, {"messages": "missing"}),
        ({"messages": []}, {"messages": "must not be empty"}),
        ({"messages": "hello"}, {"messages": "expected a list, found text"}),
        (
            {"messages": [*HELLO, {"role": "robot"}, {"content": "x"}, "hi"]},
            {
                "messages[1].role": (
                    "expected one of 'system', 'user', 'assistant', 'tool', found 'robot'"
                ),
                "messages[2].role": "missing",
                "messages[3]": "expected an object, found text",
            },
        ),
        (
            {"messages": [{"role": "user", "content": ["a"], "images": "x"}]},
            {
                "messages[0].content": "expected text, found a list",
                "messages[0].images": "expected a list, found text",
            },
        ),
        (
            {"messages": [{"role": "user", "images": ["ok", 5]}]},
            {"messages[0].images[1]": "expected text, found a number"},
        ),
        ({"options": []}, {"options": "expected an object, found a list"}),
        ({"format": "xml"}, {"format": 'must be "json" or a JSON schema object'}),
        ({"format": 3}, {"format": 'must be "json" or a JSON schema object'}),
        ({"tools": {}}, {"tools": "expected a list, found an object"}),
        ({"temperature": "hot"}, {"temperature": "expected a number, found text"}),
        ({"temperature": -0.1}, {"temperature": "must not be negative"}),
        ({"top_p": -1}, {"top_p": "must not be negative"}),
        ({"seed": 1.5}, {"seed": "expected a whole number, found a number"}),
        ({"stop": [1]}, {"stop[0]": "expected text, found a number"}),
        ({"stop": 1}, {"stop": "expected text or a list, found a number"}),
        ({"timeout": 0}, {"timeout": "must be longer than nothing, and not for ever"}),
        ({"timeout": -5}, {"timeout": "must be longer than nothing, and not for ever"}),
        ({"timeout": 1e300}, {"timeout": "must be longer than nothing, and not for ever"}),
        ({"timeout": "0s"}, {"timeout": "must be longer than nothing, and not for ever"}),
        ({"timeout": True}, {"timeout": "expected a number or text, found true or false"}),
        (
            {"timeout": "soon"},
            {"timeout": "expected a duration such as '300s', '5m' or '250ms', found 'soon'"},
        ),
    ],
)
def test_every_fault_is_named_by_its_path(members: dict[str, Any], faults: dict[str, str]) -> None:
    assert faults_of(**members) == faults


def test_a_think_that_is_none_of_the_choices_is_refused() -> None:
    assert list(faults_of(think="hard")) == ["think"]
    assert request_of(think=False).think is False


@pytest.mark.parametrize(
    ("timeout", "limit"),
    [
        (None, None),
        (1500, timedelta(seconds=1.5)),
        (0.5, timedelta(microseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("1m30s", timedelta(seconds=90)),
    ],
)
def test_a_time_in_numbers_is_milliseconds_as_node_counts(
    timeout: object, limit: timedelta | None
) -> None:
    assert request_of(timeout=timeout).time_limit == limit


def test_the_prompt_is_counted_with_its_thinking_and_without_its_images() -> None:
    request = request_of(
        messages=[
            {"role": "user", "content": "12345", "images": ["x" * 1000]},
            {"role": "assistant", "thinking": "123"},
            {"role": "user", "content": None},
        ]
    )
    assert request.prompt_chars == 8


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
members = st.sampled_from(
    ["model", "messages", "options", "format", "tools", "think", "timeout", "stop", "seed", "top_p"]
)


@settings(deadline=None)
@given(st.dictionaries(members, json_values, max_size=4))
def test_any_data_makes_a_call_or_is_refused_with_faults(data: dict[str, Any]) -> None:
    whole = {"model": "m", "messages": HELLO, **data}
    try:
        request = structure(whole, ChatRequest)
        assert request.time_limit is None or request.time_limit > timedelta()
        request.as_call()
    except (InvalidData, InvalidRequest) as error:
        faults = error.faults
    else:
        return
    assert all(fault.path for fault in faults)

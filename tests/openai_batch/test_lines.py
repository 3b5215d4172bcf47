"""Lines of an input file: read or refused, whatever stands in them, and read so that jobs accept it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_core_chat.request import ChatRequest
from worker_core_embeddings.request import EmbeddingsRequest

from worker_core.batches import BatchItem
from worker_core.openai_batch.endpoint import Endpoint
from worker_core.openai_batch.faults import FaultCode
from worker_core.openai_batch.lines import BadLine, read_line
from worker_core.structure import structure, unknown_members

CHAT, EMBEDDINGS = (endpoint.value for endpoint in Endpoint)
SHAPES = {"chat": ChatRequest, "embeddings": EmbeddingsRequest}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def maybe(strategy):
    return st.none() | strategy


def one_of_these(required, optional):
    return st.fixed_dictionaries(required, optional=optional)


texts = st.fixed_dictionaries({"type": st.just("text"), "text": words})
images = st.just(
    {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,aGk=", "detail": "low"}}
)
arguments = st.dictionaries(names, st.integers(0, 9), max_size=2).map(json.dumps) | st.just("")
calls = one_of_these(
    {"id": names, "function": st.fixed_dictionaries({"name": names, "arguments": arguments})},
    {"type": st.just("function")},
)
messages = st.one_of(
    one_of_these(
        {
            "role": st.sampled_from(["system", "developer"]),
            "content": words | st.lists(texts, min_size=1, max_size=2),
        },
        {},
    ),
    one_of_these(
        {
            "role": st.just("user"),
            "content": words | st.lists(texts | images, min_size=1, max_size=3),
        },
        {},
    ),
    one_of_these(
        {"role": st.just("assistant"), "tool_calls": st.lists(calls, min_size=1, max_size=2)},
        {"content": maybe(words), "refusal": maybe(words), "reasoning": maybe(words)},
    ),
    one_of_these(
        {"role": st.just("assistant"), "content": words}, {"tool_calls": maybe(st.lists(calls))}
    ),
    one_of_these(
        {"role": st.just("tool"), "content": words, "tool_call_id": names}, {"name": names}
    ),
)
tools = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": one_of_these(
            {"name": names},
            {
                "description": words,
                "strict": st.booleans(),
                "parameters": st.just({"type": "object"}),
            },
        ),
    }
)
chat_bodies = one_of_these(
    {"model": names, "messages": st.lists(messages, min_size=1, max_size=3)},
    {
        "temperature": maybe(st.floats(0, 2)),
        "top_p": maybe(st.floats(0, 1)),
        "max_completion_tokens": maybe(st.integers(1, 10)),
        "stop": maybe(words | st.lists(words, max_size=4)),
        "seed": maybe(st.integers(-(2**63), 2**64 - 1)),
        "presence_penalty": maybe(st.floats(-2, 2)),
        "reasoning_effort": st.sampled_from(
            ["none", "minimal", "low", "medium", "high", "xhigh", "max"]
        ),
        "response_format": st.sampled_from(
            [
                {"type": "text"},
                {"type": "json_object"},
                {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": 1}}},
            ]
        ),
        "tools": maybe(st.lists(tools, max_size=2)),
        "tool_choice": st.sampled_from(["auto", "none", None]),
        "metadata": st.dictionaries(names, words, max_size=2),
        "n": st.just(1),
        "user": words,
    },
)
embeddings_bodies = one_of_these(
    {"model": names, "input": names | st.lists(names, min_size=1, max_size=3)},
    {
        "dimensions": maybe(st.integers(1, 1000)),
        "encoding_format": st.sampled_from(["float", "base64", None]),
        "user": words,
    },
)
requests = st.one_of(
    st.fixed_dictionaries({"url": st.just(CHAT), "body": chat_bodies}),
    st.fixed_dictionaries({"url": st.just(EMBEDDINGS), "body": embeddings_bodies}),
)


def line(url=CHAT, custom_id="a", method="POST", body=None, **more):
    whole = {"custom_id": custom_id, "method": method, "url": url, "body": body, **more}
    return json.dumps(whole).encode()


def chat(**more):
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}


def refusal(text, number=3):
    with pytest.raises(BadLine) as caught:
        read_line(text, number)
    return caught.value


def check_accepted(read):
    """Check that a job of its type would take what was read, and all of it."""
    shape = SHAPES[read.item.type]
    request = structure(read.item.body, shape)
    assert unknown_members(read.item.body, shape) == []
    if isinstance(request, ChatRequest):
        request.as_call()


def check(text):
    """Read a line; whichever way it goes, it goes as it is promised."""
    faults, read = [], None
    try:
        read = read_line(text, 5)
    except BadLine as error:
        faults = error.faults
    assert all(fault.line == 5 and fault.message for fault in faults)
    if read is None:
        assert faults
    else:
        check_accepted(read)


@settings(max_examples=300)
@given(requests)
def test_what_can_be_asked_is_read_and_its_job_type_takes_it(request):
    check_accepted(read_line(line(url=request["url"], body=request["body"]), 1))


@given(requests, st.data())
def test_a_request_with_anything_in_a_place_is_read_or_refused(request, data):
    body = request["body"]
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(json_values)
    check(line(url=request["url"], body=body))


@given(json_values)
def test_any_json_is_read_or_refused(value):
    check(json.dumps(value).encode("utf-8", "surrogatepass"))


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_anything_is_read_or_refused(text):
    check(text)


@given(st.fixed_dictionaries(dict.fromkeys(("custom_id", "method", "url", "body"), json_values)))
def test_any_members_are_read_or_refused(value):
    check(json.dumps(value).encode("utf-8", "surrogatepass"))


def test_a_chat_and_embeddings_are_read():
    read = read_line(line(body=chat(max_tokens=1)), 1)
    assert (read.endpoint, read.model) == (Endpoint.CHAT, "m")
    assert read.item == BatchItem("a", "chat", chat(max_tokens=1))
    body = {"model": "m", "input": ["x", "y"], "dimensions": 3, "encoding_format": "base64"}
    read = read_line(line(EMBEDDINGS, body=body), 1)
    assert (read.endpoint, read.inputs) == (Endpoint.EMBEDDINGS, 2)
    # A text that is too long is an error there, and never cut.
    assert read.item == BatchItem("a", "embeddings", {**body, "truncate": False})
    assert read_line(line(EMBEDDINGS, body={"model": "m", "input": "x"}), 1).inputs == 1


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        (b"{", FaultCode.INVALID_JSON, None),
        (b"[]", FaultCode.INVALID_JSON, None),
        (b'{"custom_id": "\xff"}', FaultCode.INVALID_JSON, None),
        (line(custom_id="", body=chat()), FaultCode.INVALID_REQUEST, "custom_id"),
        (line(custom_id=7, body=chat()), FaultCode.INVALID_REQUEST, "custom_id"),
        (line(method="GET", body=chat()), FaultCode.INVALID_METHOD, "method"),
        (line("/v1/responses", body=chat()), FaultCode.INVALID_URL, "url"),
        (line(body=None), FaultCode.INVALID_REQUEST, "body"),
        (line(body=chat(url="x")), FaultCode.INVALID_REQUEST, "body.url"),
        (line(body={"messages": chat()["messages"]}), FaultCode.MISSING, "body.model"),
        (
            line(EMBEDDINGS, body={"model": "m", "input": []}),
            FaultCode.INVALID_REQUEST,
            "body.input",
        ),
        (
            line(EMBEDDINGS, body={"model": "m", "input": ["a", ""]}),
            FaultCode.INVALID_REQUEST,
            "body.input",
        ),
        (
            line(EMBEDDINGS, body={"model": "m", "input": [1, 2]}),
            FaultCode.INVALID_REQUEST,
            "body.input[0]",
        ),
    ],
)
def test_a_fault_says_its_line_its_kind_and_its_place(text, code, param):
    fault = refusal(text).faults[0]
    assert (fault.line, fault.code, fault.param) == (3, code, param)
    assert str(fault).startswith(f"line 3: {param or ''}")


def test_all_faults_of_a_line_are_told():
    error = refusal(line(method="get", custom_id="b", body=chat(n=2, model="")))
    assert [fault.param for fault in error.faults] == ["method", "body.model", "body.n"]
    assert error.custom_id == "b"


def test_a_fault_is_data_in_openais_form():
    assert refusal(line(body=chat(n=2))).faults[0].data() == {
        "code": "invalid_request",
        "line": 3,
        "message": "cannot be used here: a request has one answer",
        "param": "body.n",
    }

"""When two requests are the same, and what is worth keeping."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_core_fallback_cache.canonical import digest_of, is_at_temperature_zero, tenant_part
from worker_core_fallback_cache.entry import Entry, is_worth_keeping, read_entry, write_entry

from worker_core import ChatAnswer, ChatCall, Message

CHAT = ChatCall(
    model="llama3", messages=(Message("user", "hi"),), options={"temperature": 0, "seed": 1}
)
ANSWER = ChatAnswer(
    model="llama3",
    message=Message("assistant", "hello", thinking="hm", tool_calls=({"function": {"name": "f"}},)),
    done_reason="stop",
    eval_count=3,
    warnings=("w",),
)
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    "same",
    [
        {"model": "Llama3:latest"},
        {"model": "library/llama3"},
        {"options": {"seed": 1, "temperature": 0}},
        {"options": {"seed": 1.0, "temperature": 0.0}},
        {"options": {"seed": 1, "temperature": 0, "num_thread": 8, "num_gpu": 1}},
        {"keep_alive": "5m"},
    ],
    ids=repr,
)
def test_what_makes_no_other_request(same: dict[str, Any]) -> None:
    assert digest_of(attrs.evolve(CHAT, **same), "acme") == digest_of(CHAT, "acme")


OTHERS: list[dict[str, Any]] = [
    {},
    {"model": "llama3:8b"},
    {"messages": (Message("user", "hi "),)},
    {"messages": (Message("system", "hi"),)},
    {"messages": (Message("user", "hi"), Message("user", ""))},
    {"messages": (Message("user", "hi", images=("aGk=",)),)},
    {"messages": (Message("user", "hi", tool_name="f"),)},
    {"messages": (Message("user", "hi", tool_call_id="f"),)},
    {"messages": (Message("user", "hi", thinking="f"),)},
    {"messages": (Message("user", "half \ud83d"),)},
    {"options": {"temperature": 0}},
    {"options": {"temperature": 0, "seed": 2}},
    {"options": {"temperature": 0, "seed": True}},
    {"options": {"temperature": 0, "seed": "1"}},
    {"options": {"temperature": 0, "seed": 1, "num_ctx": 512}},
    {"format": "json"},
    {"format": {"type": "object"}},
    {"tools": (TOOL,)},
    {"think": True},
    {"think": False},
    {"context_length": 512},
]


def test_what_makes_another_request() -> None:
    calls = [attrs.evolve(CHAT, **other) for other in OTHERS]
    digests = {digest_of(call, tenant) for call in calls for tenant in (None, "", "acme", "null")}
    assert len(digests) == 4 * len(OTHERS)


def test_a_key_does_not_name_the_tenant() -> None:
    parts = {tenant_part(tenant) for tenant in (None, "", "-", "acme", "half \ud83d")}
    assert len(parts) == 5
    assert tenant_part(None) == "-"
    assert "acme" not in tenant_part("acme")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4), st.randoms())
def test_the_order_of_members_does_not_matter(options: dict[str, Any], random: Any) -> None:
    names = list(options)
    random.shuffle(names)
    one, other = (
        attrs.evolve(CHAT, options=dict(members))
        for members in (options, {name: options[name] for name in names})
    )
    assert digest_of(one, None) == digest_of(other, None)


@pytest.mark.parametrize(
    ("options", "is_zero"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.1}, False),
        ({"temperature": False}, False),
        ({"temperature": "0"}, False),
        ({}, False),
    ],
    ids=repr,
)
def test_temperature_zero_must_be_said(options: dict[str, Any], is_zero: bool) -> None:
    assert is_at_temperature_zero(attrs.evolve(CHAT, options=options)) is is_zero


def answer(content: str = "hello", **more: Any) -> ChatAnswer:
    return ChatAnswer(model="llama3", message=Message("assistant", content), **more)


def test_what_is_worth_keeping() -> None:
    as_json = attrs.evolve(CHAT, format="json")
    assert is_worth_keeping(CHAT, ANSWER)
    assert is_worth_keeping(CHAT, answer(done_reason="length"))
    assert not is_worth_keeping(CHAT, answer(done=False))
    assert not is_worth_keeping(CHAT, answer(done_reason="load"))
    assert not is_worth_keeping(CHAT, answer(""))
    assert is_worth_keeping(as_json, answer('{"a": 1}'))
    assert not is_worth_keeping(as_json, answer('{"a": '))
    assert not is_worth_keeping(as_json, answer("[" * 100_000))


def test_an_entry_is_read_as_it_was_written() -> None:
    entry = Entry(stored_ms=1_700_000_000_000, answer=ANSWER)
    raw = write_entry(entry)
    assert raw is not None
    assert read_entry(raw) == entry


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"stored_ms": 1}', b'{"answer": {}}'])
def test_what_is_no_entry_is_none(raw: bytes) -> None:
    assert read_entry(raw) is None


def test_an_answer_that_json_cannot_carry_is_not_kept() -> None:
    assert (
        write_entry(Entry(stored_ms=1, answer=attrs.evolve(ANSWER, logprobs=[float("nan")])))
        is None
    )

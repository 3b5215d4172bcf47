"""Packing, with redis-py as the witness, and parsing."""

from __future__ import annotations

import enum
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import PythonRespSerializer

from worker_core.errors import ReplyError
from worker_core.redis import Arg, Head, Script
from worker_core.redis.resp import new_parser, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

args = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(max_size=100),
    st.integers(),
    st.floats(),
)
calls = st.lists(args, min_size=1, max_size=12)


def by_redis_py(rest: Sequence[Arg]) -> bytes:
    def encode(value: Arg) -> bytes:
        if isinstance(value, bytes):
            return value
        return value.encode() if isinstance(value, str) else repr(value).encode()

    serializer = PythonRespSerializer(6000, encode)
    return b"".join(serializer.pack("X", *rest))  # type: ignore[no-untyped-call]  # redis-py's


@given(calls)
def test_a_call_is_packed_as_redis_py_packs_it(call: list[Arg]) -> None:
    assert pack("X", *call) == by_redis_py(call)


@given(calls, calls)
def test_a_head_and_its_rest_make_the_whole_call(first: list[Arg], rest: list[Arg]) -> None:
    head = Head.of(*first)
    assert head.pack(tuple(rest)) == pack(*first, *rest)
    assert head.pack(()) == pack(*first)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), calls)
def test_a_bound_script_is_an_evalsha(keys: list[str], rest: list[Arg]) -> None:
    script = Script("one", b"return 1")
    head = script.bind(keys)
    assert head.script is script
    assert head.pack(tuple(rest)) == pack("EVALSHA", script.sha1, len(keys), *keys, *rest)


def test_scripts_with_one_source_are_one() -> None:
    assert Script("a", b"return 1") == Script("b", b"return 1")
    assert len({Script("a", b"return 1"), Script("b", b"return 1")}) == 1
    assert Script("a", b"return 1").sha1 == "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize("wrong", [None, True, Colour.RED, ["a"], {}, object()])
def test_what_has_no_form_on_the_wire_is_named(wrong: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(wrong).__name__}: convert"):
        pack("SET", "key", wrong)  # type: ignore[arg-type]  # the mistake on trial
    with pytest.raises(TypeError, match=f"not {type(wrong).__name__}: convert"):
        Head.of("SET").pack(("key", wrong))  # type: ignore[arg-type]  # the mistake on trial


def test_a_lone_surrogate_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(UnicodeEncodeError):
        pack("SET", "key", "\ud83d")


WIRE = (
    b"+OK\r\n$3\r\na\xffb\r\n:-7\r\n$-1\r\n*-1\r\n*2\r\n:1\r\n*1\r\n$0\r\n\r\n"
    b"-WRONGTYPE no\r\n*2\r\n-ERR in\r\n+x\r\n-ERR \xff\r\n"
)


@given(st.lists(st.integers(1, len(WIRE) - 1), max_size=8))
def test_replies_are_read_wherever_the_stream_is_broken(cuts: list[int]) -> None:
    parser = new_parser()
    replies: list[object] = []
    edges = [0, *sorted(cuts), len(WIRE)]
    for begin, end in pairwise(edges):
        parser.feed(WIRE[begin:end])
        while (reply := parser.gets()) is not False:
            replies.append(reply)
    *plain, wrong, nested, odd = replies
    assert plain == [b"OK", b"a\xffb", -7, None, None, [1, [b""]]]
    assert isinstance(wrong, ReplyError)
    assert (wrong.code, str(wrong)) == ("WRONGTYPE", "WRONGTYPE no")
    assert isinstance(nested, list)
    assert isinstance(nested[0], ReplyError)
    assert isinstance(odd, ReplyError)

"""Strict JSON: what is kept is kept exactly, what cannot be kept is named by its path."""

from __future__ import annotations

import contextlib
import enum
import json
import math
from dataclasses import dataclass

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_core import strict_json
from worker_core.errors import InvalidRequest
from worker_core.strict_json import MAX_DEPTH, Unpublishable, dumps, loads

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
HALF = "\ud83d"
"""The first half of an emoji."""


def faults_of(raw: bytes | str) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        loads(raw)
    return {fault.path: fault.message for fault in caught.value.faults}


def nested(depth: int, *, around: str = "1") -> str:
    return "[" * depth + around + "]" * depth


@settings(deadline=None)
@given(values)
def test_what_is_written_is_read_the_same(value: object) -> None:
    assert loads(dumps(value)) == value


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode) | values.map(json.dumps).map(str.encode))
def test_the_fast_way_and_the_slow_way_agree(raw: bytes) -> None:
    def read(reader: object) -> object:
        try:
            return reader(raw)  # type: ignore[operator]
        except InvalidRequest as error:
            return error.faults

    assert repr(read(loads)) == repr(read(strict_json._loads_naming_faults))


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        loads(raw)


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_named_by_their_path(raw: str) -> None:
    assert faults_of(f'{{"a": [1, {{"b": {raw}}}]}}') == {"a[1].b": "not a finite number"}


@pytest.mark.parametrize(
    "digits", ["18446744073709551616", "-9223372036854775809", "1" + "0" * 5000]
)
def test_integers_beyond_64_bits_are_named_by_their_path(digits: str) -> None:
    assert faults_of(f'{{"ids": [1, {digits}]}}') == {"ids[1]": "an integer beyond 64 bits"}


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 2**53 + 1])
def test_integers_of_64_bits_are_kept_exactly(number: int) -> None:
    assert loads(str(number)) == number
    assert loads(dumps([number])) == [number]


def test_a_long_fraction_is_no_long_integer() -> None:
    assert loads("[0.12345678901234567890123]") == [0.12345678901234567890123]


def test_half_a_character_is_named_by_its_path() -> None:
    raw = '{"messages": [{"content": "ok"}, {"content": "\\ud83d"}]}'
    assert faults_of(raw) == {
        "messages[1].content": "text with half a character (a lone surrogate)"
    }
    assert faults_of(f'{{"a": "{HALF}"}}') == {"a": "text with half a character (a lone surrogate)"}
    assert faults_of('{"a": {"\\udc00": 1}}') == {
        "a": "a name with half a character (a lone surrogate)"
    }


def test_a_whole_character_in_two_escapes_is_read() -> None:
    assert loads('"\\ud83d\\ude00"') == "😀"


def test_every_fault_is_named_at_once() -> None:
    found = faults_of('{"a": NaN, "b": [18446744073709551616], "c": "\\ud800"}')
    assert set(found) == {"a", "b[0]", "c"}


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1000, 200_000])
def test_too_deep_is_refused_before_it_is_read(depth: int) -> None:
    expected = {"": f"nested deeper than {MAX_DEPTH} levels"}
    assert faults_of(nested(depth)) == expected
    assert faults_of('{"a":' * depth + "1" + "}" * depth) == expected


def test_the_greatest_depth_allowed_is_read() -> None:
    value = loads(nested(MAX_DEPTH))
    assert loads(dumps(value)) == value


def test_many_brackets_side_by_side_or_in_text_are_not_deep() -> None:
    assert loads(json.dumps([[]] * 500)) == [[]] * 500
    assert loads(json.dumps("[" * 500)) == "[" * 500
    assert loads(json.dumps(['\\"' + "{[" * 500])) == ['\\"' + "{[" * 500]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"{}{}",
        b"{'a': 1}",
        b"[1,]",
        b"\xff",
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-16-le"),
        '{"a": 1}'.encode("utf-32-be"),
        b"undefined",
        b"01",
        b'"\x00"',
    ],
)
def test_what_is_not_json_in_utf8_is_refused(raw: bytes) -> None:
    (message,) = faults_of(raw).values()
    assert message.startswith("not JSON: ")


def test_the_refusal_quotes_no_data() -> None:
    with pytest.raises(InvalidRequest) as caught:
        loads('{"password": "hunter2", }')
    assert "hunter2" not in str(caught.value)


# --- Writing ---


@dataclass
class _Reading:
    value: float


class _Level(enum.Enum):
    UNKNOWN = math.nan


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused_with_its_path(number: float) -> None:
    with pytest.raises(Unpublishable, match=r"^vectors\[1\]\[0\]: not a finite number$"):
        dumps({"vectors": [[1.0], [number]]})


@pytest.mark.parametrize("value", [_Reading(math.nan), [_Reading(math.inf)], [_Level.UNKNOWN]])
def test_nan_is_found_inside_whatever_the_writer_can_write(value: object) -> None:
    with pytest.raises(Unpublishable):
        dumps(value)


@settings(deadline=None)
@given(
    st.recursive(
        scalars | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(), inner, max_size=4)
        ),
        max_leaves=15,
    )
)
def test_nan_never_becomes_null(value: object) -> None:
    try:
        written = dumps(value)
    except Unpublishable:
        assert _has_odd_number(value)
    else:
        assert not _has_odd_number(value)
        assert orjson.loads(written) == orjson.loads(json.dumps(value))


def _has_odd_number(value: object) -> bool:
    match value:
        case float():
            return not math.isfinite(value)
        case list() | tuple():
            return any(map(_has_odd_number, value))
        case dict():
            return any(map(_has_odd_number, value.values()))
        case _:
            return False


def test_null_that_was_meant_is_written() -> None:
    assert (
        dumps({"a": None, "b": [1.5, None], "c": "null"}) == b'{"a":null,"b":[1.5,null],"c":"null"}'
    )


def test_half_a_character_is_written_as_a_replacement() -> None:
    assert loads(dumps({"a" + HALF: ["b" + HALF, ("c",)]})) == {"a�": ["b�", ["c"]]}


def test_two_halves_that_meet_are_written_as_their_character() -> None:
    assert loads(dumps(HALF + "\ude00")) == "😀"


def test_nan_beside_half_a_character_is_still_refused() -> None:
    with pytest.raises(Unpublishable, match=r"^n: not a finite number$"):
        dumps({"text": HALF, "n": math.nan})


@pytest.mark.parametrize("value", [object(), {1: 2}, b"raw", {"a": {1, 2}}, [lambda: None]])
def test_what_json_has_no_form_for_is_refused(value: object) -> None:
    with pytest.raises(Unpublishable, match=r"^not JSON: "):
        dumps(value)


def test_an_integer_beyond_64_bits_is_refused_with_its_path() -> None:
    with pytest.raises(Unpublishable, match=r"^counts\[0\]: an integer beyond 64 bits$"):
        dumps({"counts": [2**64]})


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[object] = [None]
    loop.append(loop)
    with pytest.raises(Unpublishable, match="nested deeper"):
        dumps(loop)


def test_dots_in_a_name_are_not_depth() -> None:
    value = {"." * 300: [None], "[" * 300: {"x": None}}
    assert loads(dumps(value)) == value

"""Durations as people write them."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_core.durations import format_duration, parse_duration

MS = timedelta(milliseconds=1)


@given(st.integers(0, 10**14))
def test_what_is_written_is_read_the_same(count: int) -> None:
    assert parse_duration(format_duration(count * MS)) == count * MS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300s", 300),
        ("5m", 300),
        ("250ms", 0.25),
        ("1m30s", 90),
        ("1h30m", 5400),
        ("1d", 86400),
        ("1.5h", 5400),
        (" 10S ", 10),
        ("0s", 0),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_the_usual_forms_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(days=1, milliseconds=5), "1d5ms"),
        (timedelta(microseconds=400), "0s"),
    ],
)
def test_the_shortest_form_is_written(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "300",
        "s",
        "5 m",
        "-5s",
        "+5s",
        "5sec",
        "1h 30m",
        "1e3s",
        ".5s",
        "5.s",
        "five",
        "5s;",
        "٣s",
    ],
)
def test_anything_else_is_refused_with_the_form_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as '300s', '5m' or '250ms'"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9" * 30 + "d", "9" * 400 + "s", "999999999d24h"])
def test_a_duration_beyond_all_bounds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too long to be meant"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["30s1m", "1s1s", "5ms5s"])
def test_units_come_largest_first_and_once(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(st.text(alphabet="0123456789.smhd -e", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_duration(text) >= timedelta()

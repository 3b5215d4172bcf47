"""When a cron pattern is next due. The same against Node's cron-parser: tests/interop."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_core._bullmq.cron import BadSchedule, next_time_ms


def ms(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def due(pattern: str, after: str, zone: str = "UTC") -> str:
    found = next_time_ms(pattern, ms(after, zone), zone)
    assert found is not None
    return datetime.fromtimestamp(found / 1000, ZoneInfo(zone)).isoformat()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*/15 * * * * *", "2026-03-04T10:20:45+00:00"),
        ("*/15 * * * *", "2026-03-04T10:30:00+00:00"),
        ("0 9 * * 1-5", "2026-03-05T09:00:00+00:00"),
        ("0 9 * * MON", "2026-03-09T09:00:00+00:00"),
        ("0 0 L * *", "2026-03-31T00:00:00+00:00"),
        ("0 0 * * 5L", "2026-03-27T00:00:00+00:00"),
        ("0 0 * * 1#2", "2026-03-09T00:00:00+00:00"),
        ("0 0 * * 7", "2026-03-08T00:00:00+00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00:00+00:00"),
        ("15 10 ? * *", "2026-03-05T10:15:00+00:00"),
        ("@daily", "2026-03-05T00:00:00+00:00"),
        ("4 * *", "2026-03-04T10:21:00+00:00"),  # day, month, weekday; hour and minute are any
        ("", "2026-03-04T10:21:00+00:00"),
        # Both days restricted: either will do, also where one of them is a step.
        ("0 12 */2 * 1", "2026-03-05T12:00:00+00:00"),
    ],
)
def test_patterns(pattern: str, expected: str) -> None:
    assert due(pattern, "2026-03-04T10:20:33") == expected


def test_what_is_due_now_is_due_next_time() -> None:
    assert due("0 10 * * *", "2026-03-04T10:00:00") == "2026-03-05T10:00:00+00:00"


@pytest.mark.parametrize(
    ("pattern", "after", "expected"),
    [
        # 02:30 does not come on the 29th of March: it is served an hour later.
        ("30 2 * * *", "2026-03-28T12:00:00", "2026-03-29T03:30:00+02:00"),
        ("30 2 * * *", "2026-03-29T03:30:00", "2026-03-30T02:30:00+02:00"),
        # It comes twice on the 25th of October, and is served once.
        ("30 2 * * *", "2026-10-24T12:00:00", "2026-10-25T02:30:00+02:00"),
        ("30 2 * * *", "2026-10-25T02:30:00", "2026-10-26T02:30:00+01:00"),
        # What comes every hour comes in that one twice.
        ("30 * * * *", "2026-10-25T02:30:00", "2026-10-25T02:30:00+01:00"),
        ("0 9 * * *", "2026-10-24T09:00:00", "2026-10-25T09:00:00+01:00"),
    ],
)
def test_the_change_of_the_clocks(pattern: str, after: str, expected: str) -> None:
    assert due(pattern, after, "Europe/Berlin") == expected


def test_a_day_whose_midnight_does_not_come_is_served_all_the_same() -> None:
    assert due("@daily", "2026-03-28T00:00:00", "Asia/Beirut") == "2026-03-29T01:00:00+03:00"


@pytest.mark.parametrize("tz", ["Europe/Berlin", "europe/berlin"])
def test_time_zones_are_known_in_any_case(tz: str) -> None:
    assert next_time_ms("0 9 * * *", ms("2026-07-01T00:00"), tz) == ms("2026-07-01T07:00")


@pytest.mark.parametrize(("tz", "hour"), [("UTC", 9), ("utc", 9), ("UTC+2", 7), ("UTC-05:30", 14)])
def test_offsets(tz: str, hour: int) -> None:
    found = next_time_ms("0 9 * * *", ms("2026-07-01T00:00"), tz)
    assert found is not None
    assert datetime.fromtimestamp(found / 1000, UTC).hour == hour


@pytest.mark.parametrize(
    "pattern",
    [
        *("bad", "60 * * * *", "* * * * * * *", "0 0 32 * *", "0 0 30 2 *", "*/0 * * * *"),
        *("5-1 * * * *", "* * * FOO *", "0 0 * * L", "1," * 600 + "1 * * * *", "\ud83d * * * *"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BadSchedule, match="no cron pattern"):
        next_time_ms(pattern, 0, "UTC")


@pytest.mark.parametrize("tz", ["Mars/Olympus", "../../etc/passwd", "x" * 10_000, "\0"])
def test_what_is_no_time_zone_is_refused(tz: str) -> None:
    with pytest.raises(BadSchedule, match="no time zone") as caught:
        next_time_ms("* * * * *", 0, tz)
    assert len(str(caught.value)) < 120


@settings(deadline=None)
@given(pattern=st.text(alphabet="0123456789*/,-?L#W@ MONJA", max_size=30), after=st.integers())
def test_any_text_gives_a_later_time_or_is_refused(pattern: str, after: int) -> None:
    try:
        found = next_time_ms(pattern, after, "America/New_York")
    except BadSchedule:
        return
    assert found is None or found > after

"""The job that follows one of a job scheduler's."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_core._bullmq.job import StoredJob
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.scheduling import BadSchedule, make_next

KEYS = QueueKeys("bull", "mail")
NOW = 1_772_619_633_444  # 2026-03-04T10:20:33.444Z
MINUTE = 60_000
NEXT_MINUTE = 1_772_619_660_000


def job(options: object, job_id: str = "repeat:tick:1") -> StoredJob:
    raw = options if isinstance(options, bytes) else json.dumps(options).encode()
    return StoredJob(id=job_id, scheduler_id="tick", raw_options=raw, data=b'{"a":1}')


def following(repeat: object, **options: Any) -> dict[str, Any] | None:
    """The options of the next job, and the time that the scheduler is moved to."""
    call = make_next(KEYS, job({"repeat": repeat, **options}), now_ms=NOW)
    if call is None:
        return None
    unpacked: dict[str, Any] = msgpack.unpackb(call.args[3])
    assert call.args[4] == NOW
    return unpacked | {"next": call.args[0]}


def test_the_next_job_has_the_options_of_this_one_and_the_next_time() -> None:
    repeat = {"pattern": "* * * * *", "tz": "UTC", "count": 3, "limit": 9, "offset": None}
    options = {"attempts": 4, "backoff": {"type": "fixed", "delay": 5}, "tm": "trace", "kl": 7}
    found = following(repeat, **options, prevMillis=NOW - 9, jobId="old", delay=12, timestamp=1)
    assert found == {
        **options,
        "next": NEXT_MINUTE,
        "jobId": f"repeat:tick:{NEXT_MINUTE}",
        "delay": NEXT_MINUTE - NOW,
        "timestamp": NOW,
        "prevMillis": NEXT_MINUTE,
        "repeatJobKey": "tick",
        "repeat": {"pattern": "* * * * *", "tz": "UTC", "count": 4, "limit": 9},
    }


def test_the_script_is_told_which_job_asks() -> None:
    call = make_next(KEYS, job({"repeat": {"every": MINUTE}}, "repeat:tick:77"), now_ms=NOW)
    assert call is not None
    assert call.args[1:3] == ("tick", b'{"a":1}')
    assert call.args[5:] == ("bull:mail:", "repeat:tick:77")
    assert call.keys[10] == "bull:mail:repeat:tick:77"


def test_a_slot_is_the_scripts_to_find() -> None:
    found = following({"every": 5000, "count": 1, "offset": 12})
    assert found is not None
    assert found["repeat"] == {"every": 5000, "count": 2, "offset": 12}
    assert "prevMillis" not in found


def test_a_pattern_goes_on_from_the_jobs_own_time_where_that_is_to_come() -> None:
    # A worker whose clock is a little behind has taken it early.
    found = following({"pattern": "* * * * *", "tz": "UTC"}, prevMillis=NEXT_MINUTE)
    assert found is not None
    assert found["next"] == NEXT_MINUTE + MINUTE


@pytest.mark.parametrize("start", [NEXT_MINUTE + MINUTE + 1, "2026-03-04T10:22:00.001Z"])
def test_a_pattern_begins_at_its_start(start: object) -> None:
    found = following({"pattern": "* * * * *", "tz": "UTC", "startDate": start})
    assert found is not None
    assert found["next"] == NEXT_MINUTE + 2 * MINUTE
    assert found["repeat"]["startDate"] == NEXT_MINUTE + MINUTE + 1


@pytest.mark.parametrize(
    "ended",
    [
        {"every": 1000, "limit": 3, "count": 3},
        {"every": 1000, "limit": 3.0, "count": 3.0},
        {"every": 1000, "endDate": NOW - 1},
        {"pattern": "* * * * *", "tz": "UTC", "endDate": NEXT_MINUTE - 1},
        {"pattern": "0 0 29 2 0#5", "tz": "UTC", "endDate": NOW + 1},
        {"every": 1000, "limit": 0},
    ],
)
def test_a_scheduler_comes_to_its_end(ended: dict[str, Any]) -> None:
    assert following(ended) is None


@pytest.mark.parametrize(
    "going_on",
    [
        {"every": 1000, "limit": 3, "count": 2},
        {"every": 1000, "endDate": NOW},
        {"pattern": "* * * * *", "tz": "UTC", "endDate": NEXT_MINUTE},
        {"every": 1e3},
    ],
)
def test_a_scheduler_goes_on_to_the_last(going_on: dict[str, Any]) -> None:
    assert following(going_on) is not None


def test_immediately_counts_for_the_first_job_alone() -> None:
    found = following({"pattern": "* * * * *", "tz": "UTC", "immediately": True})
    assert found is not None
    assert found["next"] == NEXT_MINUTE
    assert "immediately" not in found["repeat"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (b"", "opts"),
        (b"{", "opts"),
        (b"[1]", "expected an object"),
        ({}, "opts.repeat"),
        ({"repeat": {}}, "either a pattern or a number"),
        ({"repeat": {"pattern": "* * * * *", "every": 5}}, "either a pattern or a number"),
        ({"repeat": {"every": "5000"}}, "either a pattern or a number"),
        ({"repeat": {"pattern": 5}}, "expected text"),
        ({"repeat": {"pattern": "never"}}, "no cron pattern"),
        ({"repeat": {"pattern": "* * * * *", "tz": "Mars"}}, "no time zone"),
        ({"repeat": {"every": 5000, "endDate": "soon"}}, "opts.repeat.endDate"),
    ],
)
def test_what_cannot_be_followed_is_said(options: object, said: str) -> None:
    with pytest.raises(BadSchedule, match=said):
        make_next(KEYS, job(options), now_ms=NOW)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = ["pattern", "every", "limit", "count", "startDate", "endDate", "tz", "offset", "x"]


@settings(deadline=None)
@given(
    repeat=st.dictionaries(st.sampled_from(NAMES), json_values | st.sampled_from(["* * * * *"])),
    options=st.dictionaries(st.text(), json_values),
)
def test_whatever_stands_in_the_options_nothing_else_is_raised(
    repeat: dict[str, Any], options: dict[str, Any]
) -> None:
    with contextlib.suppress(BadSchedule):
        make_next(KEYS, job({**options, "repeat": repeat}), now_ms=NOW)

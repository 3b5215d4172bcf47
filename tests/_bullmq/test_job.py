"""A stored job is read so that nothing in its hash can throw."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_core._bullmq import calls
from worker_core._bullmq.attempts import next_step
from worker_core._bullmq.calls import ClaimOptions, Finish
from worker_core._bullmq.job import Backoff, JobOptions, KeepJobs, StoredJob, read_job
from worker_core._bullmq.keys import QueueKeys

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = [
    "name",
    "data",
    "opts",
    "timestamp",
    "delay",
    "priority",
    "processedOn",
    "finishedOn",
    "atm",
    "ats",
    "attemptsMade",
    "stc",
    "stacktrace",
    "returnvalue",
    "failedReason",
    "defa",
    "pb",
    "rjk",
    "parent",
    "parentKey",
    "progress",
    "tm",
]
INT64 = 2**63


def read(fields: Mapping[str, bytes | str]) -> StoredJob:
    pairs: list[bytes] = []
    for name, value in fields.items():
        pairs += [name.encode(), value.encode() if isinstance(value, str) else value]
    return read_job("7", pairs)


@pytest.mark.parametrize(
    ("value", "since_ms"),
    [
        ("2:1234", 1234),
        ("1:1234", None),  # an earlier attempt's
        ("2:", None),
        ("2:-5", None),
        ("2:1e9", None),
        ("2:1234:5", None),
        (b"\xff\xfe", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_since_when_an_attempt_is_put_off_is_read_where_it_is_this_attempts(
    value: bytes | str, since_ms: int | None
) -> None:
    job = read({"atm": "2", "wc:put-off": value})
    assert job.put_off_since_ms == since_ms
    assert job.faults == ()


def options_of(**options: Any) -> JobOptions:
    job = read({"opts": json.dumps(options)})
    assert job.faults == ()
    return job.options


def test_a_job_as_bullmq_writes_it_is_read() -> None:
    job = read(
        {
            "name": "greet",
            "data": '{"to":"you"}',
            "opts": '{"attempts":3,"backoff":{"type":"exponential","delay":1000}}',
            "timestamp": "1700000000000",
            "processedOn": "1700000000250",
            "priority": "4",
            "atm": "1",
            "ats": "2",
            "stacktrace": '["first"]',
            "rjk": "tick",
        }
    )
    assert job == StoredJob(
        id="7",
        name="greet",
        data=b'{"to":"you"}',
        options=JobOptions(attempts=3, backoff=Backoff("exponential", 1000)),
        timestamp_ms=1700000000000,
        processed_on_ms=1700000000250,
        priority=4,
        attempts_made=1,
        attempts_started=2,
        stacktrace=("first",),
        scheduler_id="tick",
        raw_options=b'{"attempts":3,"backoff":{"type":"exponential","delay":1000}}',
    )


def test_an_empty_hash_is_a_job_without_anything() -> None:
    assert read({}) == StoredJob(id="7")


def test_the_older_name_of_the_attempts_is_read_where_the_newer_is_absent() -> None:
    assert read({"attemptsMade": "2"}).attempts_made == 2
    assert read({"attemptsMade": "2", "atm": "3"}).attempts_made == 3


@pytest.mark.parametrize(("raw", "number"), [("1e3", 1000), ("12.0", 12), (" 7 ", 7), ("-1", -1)])
def test_numbers_that_lua_wrote_as_floats_are_read(raw: str, number: int) -> None:
    job = read({"timestamp": raw})
    assert (job.timestamp_ms, job.faults) == (number, ())


@pytest.mark.parametrize("field", ["timestamp", "processedOn", "priority", "atm", "ats"])
@pytest.mark.parametrize(
    "raw", ["", "x", "NaN", "Infinity", "1e400", "9" * 30, "9" * 5000, "-1e20"]
)
def test_a_number_that_is_none_is_a_fault_by_its_name(field: str, raw: str) -> None:
    (fault,) = read({field: raw}).faults
    assert fault.path == field
    assert "a whole number" in fault.message


@pytest.mark.parametrize("raw", ["", "{", "[1]", '{"a":1}', '"text"', "null", "\\xff", "[" * 500])
def test_old_traces_that_are_none_are_nothing_to_fail_a_job_for(raw: str) -> None:
    job = read({"stacktrace": raw})
    assert (job.stacktrace, job.faults) == ((), ())


def test_a_deferred_failure_is_read_even_where_it_is_no_text() -> None:
    assert read({"defa": b"stalled \xff"}).deferred_failure == "stalled �"
    assert read({"defa": ""}).deferred_failure == ""
    assert read({}).deferred_failure is None


@pytest.mark.parametrize(
    ("option", "keep"),
    [
        (True, KeepJobs(count=0)),
        (False, KeepJobs(count=-1)),
        (0, KeepJobs(count=0)),
        (100, KeepJobs(count=100)),
        (-1, KeepJobs(count=-1)),
        (1e15, KeepJobs(count=10**15)),
        (1e300, KeepJobs(count=2**53 - 1)),
        (-5, KeepJobs(count=-1)),
        ({"count": 5}, KeepJobs(count=5)),
        ({"age": 3600}, KeepJobs(age=3600)),
        ({"age": 3600.0, "count": 1e15, "limit": 10}, KeepJobs(10**15, 3600, 10)),
        ({"age": None, "count": 3}, KeepJobs(count=3)),
        ({}, KeepJobs()),
        (None, None),
    ],
)
@pytest.mark.parametrize("name", ["removeOnComplete", "removeOnFail"])
def test_every_form_of_keeping_finished_jobs_is_read(
    name: str, option: object, keep: KeepJobs | None
) -> None:
    options = options_of(**{name: option})
    found = options.remove_on_complete if name == "removeOnComplete" else options.remove_on_fail
    assert found == keep
    if keep is not None:
        assert all(type(value) is int for value in keep.packable().values())


def test_a_huge_number_in_lua_form_does_not_remove_the_job() -> None:
    job = read({"opts": '{"removeOnComplete":1e15}'})
    ending = Finish(completed=True, value=b"null")
    options = ClaimOptions(worker="w", lock_ms=1)
    call = calls.finish(QueueKeys("b", "q"), job, "t", ending, options, fetch_next=False)
    assert msgpack.unpackb(call.args[7])["keepJobs"] == {"count": 10**15}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (500, Backoff("fixed", 500)),
        (0.5, Backoff("fixed", 0.5)),
        (0, None),
        (None, None),
        ({"type": "fixed", "delay": 10}, Backoff("fixed", 10)),
        ({"type": "exponential", "delay": 10, "jitter": 0.5}, Backoff("exponential", 10, 0.5)),
        ({"type": "mine"}, Backoff("mine")),
    ],
)
def test_every_form_of_backoff_is_read(backoff: object, expected: Backoff | None) -> None:
    assert options_of(backoff=backoff).backoff == expected


def test_options_of_a_worker_are_read_and_all_others_left_alone() -> None:
    assert options_of(
        attempts=2.0,
        lifo=True,
        keepLogs=10,
        stackTraceLimit=3,
        fpof=True,
        cpof=True,
        idof=True,
        rdof=True,
        delay=5,
        jobId="x",
        repeat={"every": 1},
        telemetry=None,
    ) == JobOptions(
        attempts=2,
        delay=5,
        lifo=True,
        keep_logs=10,
        stack_trace_limit=3,
        fail_parent=True,
        continue_parent=True,
        ignore_dependency=True,
        remove_dependency=True,
    )


@pytest.mark.parametrize("delay", ["soon", True, None, {}])
def test_a_delay_that_is_none_is_no_fault(delay: object) -> None:
    # It has been served by then, and is read for measuring only.
    assert options_of(delay=delay) == JobOptions()


@pytest.mark.parametrize("name", ["attempts", "keepLogs", "stackTraceLimit"])
def test_the_largest_number_of_javascript_means_very_many(name: str) -> None:
    options = options_of(**{name: 1.7976931348623157e308})
    assert 2**53 - 1 in attrs.astuple(options)


def test_options_that_are_null_are_not_set() -> None:
    assert options_of(attempts=None, lifo=None, backoff=None) == JobOptions()


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("{", "opts"),
        ("[]", "opts"),
        ("[" * 1000, "opts"),
        ("7", "opts"),
        (b"\xff", "opts"),
        ('{"attempts":"3"}', "opts.attempts"),
        ('{"attempts":18446744073709551616}', "opts.attempts"),
        ('{"attempts":NaN}', "opts.attempts"),
        ('{"lifo":1}', "opts.lifo"),
        ('{"backoff":"5s"}', "opts.backoff"),
        ('{"backoff":true}', "opts.backoff"),
        ('{"backoff":{"delay":1}}', "opts.backoff.type"),
        ('{"backoff":{"type":"fixed","delay":"1"}}', "opts.backoff.delay"),
        ('{"removeOnComplete":"yes"}', "opts.removeOnComplete"),
        ('{"removeOnFail":{"count":"x"}}', "opts.removeOnFail.count"),
    ],
)
def test_options_that_cannot_be_read_are_faults_by_their_path(raw: str | bytes, path: str) -> None:
    job = read({"opts": raw})
    assert [fault.path for fault in job.faults] == [path]
    assert job.options == JobOptions()


any_value = (
    st.binary(max_size=40)
    | st.integers().map(lambda number: str(number).encode())
    | st.floats().map(lambda number: repr(number).encode())
    | st.sampled_from([b"1e400", b"9" * 400, b"9" * 5000, b"-" + b"9" * 400, b"[" * 1000])
)
json_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
any_options = st.dictionaries(
    st.sampled_from(
        [
            "attempts",
            "backoff",
            "lifo",
            "removeOnComplete",
            "removeOnFail",
            "keepLogs",
            "stackTraceLimit",
            "fpof",
            "cpof",
            "idof",
            "rdof",
        ]
    ),
    json_scalars
    | st.dictionaries(
        st.sampled_from(["type", "delay", "jitter", "count", "age", "limit"]), json_scalars
    )
    | st.builds(
        lambda kind, delay, jitter: {"type": kind, "delay": delay, "jitter": jitter},
        st.sampled_from(["fixed", "exponential", "mine"]),
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-INT64, INT64),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
).map(lambda options: json.dumps(options).encode())


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(st.sampled_from(FIELDS), any_value),
    st.none() | any_options,
    st.floats(0, 1, exclude_max=True),
)
def test_whatever_stands_in_the_hash_the_job_can_be_ended(
    fields: dict[str, bytes], options: bytes | None, random: float
) -> None:
    if options is not None:
        fields = {**fields, "opts": options}
    job = read(fields)
    assert all(
        -INT64 <= number < 2 * INT64
        for number in attrs.astuple(job, recurse=False)
        if type(number) is int
    )
    keys, claim = QueueKeys("bull", "q"), ClaimOptions(worker="w", lock_ms=1)
    next_step(job, retryable=True, random=lambda: random)
    for completed in (True, False):
        ending = Finish(completed=completed, value=b"null", stacktrace=b"[]")
        calls.finish(keys, job, "t", ending, claim, fetch_next=True)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=10)))
def test_a_hash_of_any_bytes_is_read(pairs: list[bytes]) -> None:
    assert read_job("7", pairs).id == "7"


def test_jobs_that_differ_in_their_delay_alone_have_equal_options() -> None:
    # What is packed for a completion is kept by the options, and does not depend on the delay.
    first, second = (read_job("1", [b"opts", b'{"delay":%d}' % delay]).options for delay in (1, 2))
    assert (first, first.delay, second.delay) == (second, 1, 2)
    assert hash(first) == hash(second)

"""Failures: the one error that counts, its reason in words, its trace."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_core._bullmq.job import JobOptions, StoredJob
from worker_core._runtime.failure import (
    class_of,
    history_with,
    is_retryable,
    leading_error,
    reason_text,
    trace_list,
)
from worker_core.dead_letters import ERROR_CLASSES, FailedAttempt, OtherFailure, read_attempts
from worker_core.errors import (
    DeadlineExceeded,
    EngineError,
    FailureClass,
    Fault,
    InvalidRequest,
    Unrecoverable,
)
from worker_core.signals import DelayJob, WaitForChildren

A_WHILE = timedelta(minutes=1)


class UnrecoverableError(Exception):
    """BullMQ's name for it, in somebody else's code."""


class Speechless(Exception):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def job(limit: int | None = None, traces: tuple[str, ...] = ()) -> StoredJob:
    return StoredJob(id="1", options=JobOptions(stack_trace_limit=limit), stacktrace=traces)


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:  # noqa: BLE001  # it now has a trace
        return caught


def test_the_leading_error_of_nested_groups_is_the_first_leaf() -> None:
    first, second = ValueError("first"), KeyError("second")
    group = ExceptionGroup("a", [ExceptionGroup("b", [ExceptionGroup("c", [first])]), second])
    assert leading_error(group) is first


@pytest.mark.parametrize(
    "final",
    [
        Unrecoverable("enough"),
        InvalidRequest([Fault("model", "missing")]),
        EngineError(FailureClass.BAD_INPUT, "no"),
        UnrecoverableError("enough"),
    ],
    ids=repr,
)
def test_an_error_that_forbids_a_retry_leads(final: Exception) -> None:
    group = ExceptionGroup("a", [ValueError("first"), ExceptionGroup("b", [final])])
    assert leading_error(group) is final


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (ValueError("x"), True),
        (TimeoutError(), True),
        (DeadlineExceeded("late"), True),
        (Unrecoverable("no"), False),
        (UnrecoverableError("no"), False),
        (InvalidRequest([]), False),
        *((EngineError(failure, "x"), failure.retryable) for failure in FailureClass),
    ],
    ids=repr,
)
def test_whether_another_attempt_could_help(error: Exception, retryable: bool) -> None:
    assert is_retryable(error) is retryable


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "TimeoutError"),
        (ValueError("  "), "ValueError"),
        (ValueError("no number"), "ValueError: no number"),
        (KeyError("model"), "KeyError: 'model'"),
        (Unrecoverable("enough"), "enough"),
        (Unrecoverable(""), "Unrecoverable"),
        (EngineError(FailureClass.BUSY, "full"), "busy: full"),
        (InvalidRequest([Fault("a[0]", "missing")]), "invalid request: a[0]: missing"),
        (ValueError("half \ud83d"), "ValueError: half �"),
        (ValueError("\ud83d\ude00"), "ValueError: 😀"),
        (Speechless(), "Speechless"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_reason_is_never_empty_and_always_text(error: Exception, reason: str) -> None:
    assert reason_text(error).decode() == reason


def test_the_reason_is_cut() -> None:
    assert len(reason_text(ValueError("x" * 100_000))) <= 8_000


@given(st.text(alphabet=st.characters()))
def test_a_reason_of_any_text_is_utf8(text: str) -> None:
    assert reason_text(ValueError(text)).decode()


def test_the_trace_is_added_to_those_before() -> None:
    traces = json.loads(trace_list(job(traces=("one", "two")), raised(ValueError("three"))))
    assert traces[:2] == ["one", "two"]
    assert "ValueError: three" in traces[2]
    assert "in raised" in traces[2]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(None, 10), (1, 1), (3, 3), (0, 0), (-1, 0), (2**53 - 1, 21)],
)
def test_as_many_traces_are_kept_as_the_job_says(limit: int | None, kept: int) -> None:
    before = tuple(str(number) for number in range(20))
    traces = json.loads(trace_list(job(limit, before), raised(ValueError("last"))))
    assert len(traces) == kept
    if kept:
        assert "ValueError: last" in traces[-1]
        assert traces[:-1] == list(before)[20 - kept + 1 :]


def test_a_trace_is_cut_at_its_beginning_and_is_always_text() -> None:
    error = raised(ValueError("x" * 100_000 + " half \ud83d end"))
    (trace,) = json.loads(trace_list(job(), error))
    assert len(trace) <= 16_000
    assert trace.rstrip().endswith("half � end")


def test_an_error_without_words_has_a_trace() -> None:
    (trace,) = json.loads(trace_list(job(), raised(Speechless())))
    assert "Speechless" in trace


STALLED = StoredJob(id="1", deferred_failure="job stalled more than allowable limit")
ORPHANED = StoredJob(id="1", deferred_failure="child bull:q:2 failed")


@pytest.mark.parametrize(
    ("stored", "error", "name"),
    [
        (job(), InvalidRequest([]), "invalid_request"),
        (job(), Unrecoverable("enough"), "unrecoverable"),
        (job(), UnrecoverableError("enough"), "unrecoverable"),
        (job(), DeadlineExceeded("late"), "deadline"),
        (job(), ValueError("x"), "error"),
        (job(), Speechless(), "error"),
        (STALLED, Unrecoverable(STALLED.deferred_failure), "stalled"),
        (ORPHANED, Unrecoverable(ORPHANED.deferred_failure), "unrecoverable"),
        *((job(), EngineError(failure, "x"), failure.value) for failure in FailureClass),
    ],
    ids=repr,
)
def test_every_failure_has_a_class(stored: StoredJob, error: Exception, name: str) -> None:
    assert class_of(stored, error).value == name
    assert name in ERROR_CLASSES


def test_the_names_of_the_classes_are_all_different() -> None:
    assert len({*ERROR_CLASSES}) == len(ERROR_CLASSES) == len(FailureClass) + len(OtherFailure)


def test_an_attempt_is_added_to_those_before() -> None:
    first = history_with(job(), EngineError(FailureClass.BUSY, "full"), at_ms=5, worker="w1")
    assert json.loads(first) == [
        {"at_ms": 5, "worker": "w1", "class": "busy", "error": "busy: full"}
    ]
    before = StoredJob(id="1", history=first)
    second = history_with(before, ValueError("half \ud83d"), at_ms=9, worker="w2")
    assert read_attempts(second) == (
        FailedAttempt(at_ms=5, worker="w1", error_class="busy", error="busy: full"),
        FailedAttempt(at_ms=9, worker="w2", error_class="error", error="ValueError: half \ufffd"),
    )


def test_the_history_is_bounded() -> None:
    history = b""
    for number in range(30):
        stored = StoredJob(id="1", history=history)
        history = history_with(stored, ValueError("x" * 9_000), at_ms=number, worker="w")
    attempts = read_attempts(history)
    assert [one.at_ms for one in attempts] == list(range(10, 30))
    assert {len(one.error) for one in attempts} == {500}


@given(st.one_of(st.binary(max_size=40), st.text().map(str.encode)))
def test_whatever_stands_in_the_history_an_attempt_is_added(history: bytes) -> None:
    added = history_with(StoredJob(id="1", history=history), ValueError("x"), at_ms=1, worker="w")
    assert read_attempts(added)[-1].at_ms == 1


def test_a_failure_goes_before_a_wish_to_run_again() -> None:
    failure, wish = ValueError("broken"), WaitForChildren()
    assert leading_error(ExceptionGroup("g", [wish, failure])) is failure
    assert (
        leading_error(ExceptionGroup("g", [wish, ExceptionGroup("h", [DelayJob(A_WHILE)])])) is wish
    )

"""Failures: the one error that counts, its class, its reason in words, its trace."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

import orjson

from worker_core.dead_letters import ErrorClass, FailedAttempt, OtherFailure, read_attempts
from worker_core.errors import (
    DeadlineExceeded,
    EngineError,
    InvalidRequest,
    JobError,
    Unrecoverable,
)
from worker_core.signals import JobSignal

if TYPE_CHECKING:
    from worker_core._bullmq.job import StoredJob

__all__ = [
    "class_of",
    "history_with",
    "is_retryable",
    "leading_error",
    "reason_text",
    "trace_list",
    "words_of",
]

_REASON_LIMIT = 8_000
_TRACE_LIMIT = 16_000
_TRACES_KEPT = 10
"""How many traces a job keeps that does not say: one for each attempt would grow without end."""
_ERROR_LIMIT = 500
_ATTEMPTS_KEPT = 20
_STALLED = "job stalled more than allowable limit"
"""BullMQ's words. What is deferred may also be that a child has failed."""


def leading_error(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the error of a group that decides: one that forbids a retry, else the first.

    Any failure goes before a wish to be run again later.
    """
    leaves = _leaves(group)
    errors = [error for error in leaves if not isinstance(error, JobSignal)] or leaves
    return next((error for error in errors if not is_retryable(error)), errors[0])


def _leaves(error: BaseException) -> list[Exception]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    assert isinstance(error, Exception)
    return [error]


def is_retryable(error: Exception) -> bool:
    """Tell whether another attempt could end differently; unknown errors may."""
    if isinstance(error, JobError):
        return error.retryable
    # BullMQ's rule: an error of this name is final, whoever's class it is.
    return type(error).__name__ != "UnrecoverableError"


def class_of(job: StoredJob, error: Exception) -> ErrorClass:
    """Return the class of the failure of a job's attempt."""
    match error:
        case EngineError():
            return error.failure
        case InvalidRequest():
            return OtherFailure.INVALID_REQUEST
        case DeadlineExceeded():
            return OtherFailure.DEADLINE
        case Unrecoverable() if job.deferred_failure == _STALLED:
            return OtherFailure.STALLED
        case _:
            return OtherFailure.ERROR if is_retryable(error) else OtherFailure.UNRECOVERABLE


def reason_text(error: Exception) -> bytes:
    """Return the failure's reason: never empty, always UTF-8, of bounded length."""
    said, name = words_of(error), type(error).__name__
    text = f"{name}: {said}" if said and not isinstance(error, JobError) else said or name
    return _clean(text[:_REASON_LIMIT])


def words_of(error: Exception) -> str:
    """Return what an error says, which may be nothing; it may even fail to say it."""
    try:
        return str(error).strip()
    except Exception:  # noqa: BLE001  # foreign code, and no reason to leave its job active
        return ""


def trace_list(job: StoredJob, error: Exception) -> bytes:
    """Return the job's traces with this one added, as the JSON list that BullMQ keeps."""
    limit = job.options.stack_trace_limit
    keep = _TRACES_KEPT if limit is None else max(0, limit)
    trace = "".join(traceback.format_exception(error))[-_TRACE_LIMIT:]
    traces = [*job.stacktrace, _clean(trace).decode()]
    return orjson.dumps(traces[-keep:] if keep else [])


def history_with(job: StoredJob, error: Exception, *, at_ms: int, worker: str) -> bytes:
    """Return the job's failed attempts with this one added, as the JSON list kept in its hash."""
    said = reason_text(error).decode()[:_ERROR_LIMIT]
    failed = FailedAttempt(
        at_ms=at_ms, worker=worker, error_class=class_of(job, error).value, error=said
    )
    attempts = [*read_attempts(job.history), failed]
    return orjson.dumps([one.wire() for one in attempts[-_ATTEMPTS_KEPT:]])


def _clean(text: str) -> bytes:
    # Half an emoji from a model must not keep its job from failing.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()

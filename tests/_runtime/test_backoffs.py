"""Backoff strategies of plugins: whatever they do, the failed job goes somewhere."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from worker_core._bullmq.attempts import GiveUp, NextStep, RetryAfter
from worker_core._bullmq.job import Backoff, JobOptions, StoredJob
from worker_core._runtime.backoffs import Backoffs
from worker_core._runtime.context import view_of
from worker_core.backoff import BackoffStrategy, FailedAttempt

JOB = StoredJob(id="7", name="n", attempts_made=2, options=JobOptions(attempts=5))
ERROR = RuntimeError("broken")


def ask(delay: Any, kind: str = "mine") -> NextStep | None:
    backoffs = Backoffs(
        {"mine": BackoffStrategy("mine", delay)},
        lambda stored: view_of(stored, queue="q", job_type="t"),
    )
    return backoffs.step(JOB, Backoff(kind, 1500), ERROR)


def test_a_strategy_is_told_of_the_attempt() -> None:
    told: list[FailedAttempt] = []

    def delay(attempt: FailedAttempt) -> timedelta:
        told.append(attempt)
        return timedelta(seconds=attempt.number)

    assert ask(delay) == RetryAfter(3000)
    [attempt] = told
    assert attempt.error is ERROR
    assert attempt.delay == timedelta(seconds=1.5)
    assert (attempt.job.id, attempt.job.queue, attempt.job.max_attempts) == ("7", "q", 5)


def test_a_strategy_may_give_up() -> None:
    assert ask(lambda _: None) == GiveUp()


def test_another_type_is_nobodys() -> None:
    assert ask(lambda _: timedelta(), "yours") is None


def failing(_: FailedAttempt) -> timedelta:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("delay", "said"),
    [
        (failing, "backoff strategy 'mine' failed: ZeroDivisionError"),
        (lambda _: 5, "backoff strategy 'mine' returned '5'"),
        (lambda _: timedelta(seconds=-1), "backoff strategy 'mine' returned '-1 day, 23:59:59'"),
    ],
)
def test_a_strategy_that_does_not_say_fails_the_job_by_name(delay: Any, said: str) -> None:
    assert ask(delay) == GiveUp(said)


def test_a_strategy_is_a_plain_function() -> None:
    async def delay(_: FailedAttempt) -> timedelta:
        return timedelta()

    with pytest.raises(ValueError, match="plain function"):
        BackoffStrategy("mine", delay)  # type: ignore[arg-type]

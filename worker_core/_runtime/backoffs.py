"""The backoff strategies of the plugins, asked for a failed job; none of them can hold a job up."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from worker_core._bullmq.attempts import GiveUp, NextStep, RetryAfter
from worker_core._runtime.failure import words_of
from worker_core.backoff import BackoffStrategy, FailedAttempt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker_core._bullmq.job import Backoff, StoredJob
    from worker_core.job import Job

__all__ = ["Backoffs"]

_LONGEST_MS = 1e14
"""A producer's delay may be more than a duration can hold."""


class Backoffs:
    """The strategies by name, for the jobs of one queue; `view` shows a job as plugins see it."""

    def __init__(
        self, strategies: Mapping[str, BackoffStrategy], view: Callable[[StoredJob], Job]
    ) -> None:
        self._strategies = strategies
        self._view = view

    def step(self, stored: StoredJob, backoff: Backoff, error: Exception) -> NextStep | None:
        """Say what follows a failed attempt; `None` where no plugin knows the job's backoff."""
        strategy = self._strategies.get(backoff.type)
        if strategy is None:
            return None
        try:
            attempt = FailedAttempt(
                job=self._view(stored),
                error=error,
                delay=timedelta(milliseconds=max(0.0, min(backoff.delay, _LONGEST_MS))),
            )
            delay = strategy.delay(attempt)
        except Exception as fault:  # noqa: BLE001  # a plugin's: the job fails all the same, and says so
            said = words_of(fault) or type(fault).__name__
            return GiveUp(f"backoff strategy {strategy.name!r} failed: {said}")
        match delay:
            case None:
                return GiveUp()
            case timedelta() if delay >= timedelta():
                return RetryAfter(delay // timedelta(milliseconds=1))
            case _:
                return GiveUp(f"backoff strategy {strategy.name!r} returned {str(delay)[:40]!r}")

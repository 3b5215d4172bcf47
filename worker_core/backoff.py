"""Backoff strategies: how long a failed job waits for its next attempt, said by a plugin."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from worker_core.job import Job

__all__ = ["BackoffStrategy", "FailedAttempt"]

_BUILT_IN = ("fixed", "exponential")


@attrs.frozen(kw_only=True)
class FailedAttempt:
    """What a strategy is told: an attempt that failed and is not the job's last."""

    job: Job
    error: Exception
    delay: timedelta
    """What the job's `backoff.delay` says; nothing where it does not say."""

    @property
    def number(self) -> int:
        """Which attempt it was: 1 for the first."""
        return self.job.attempt


def _check_name(_: object, __: object, value: str) -> None:
    if not value or value in _BUILT_IN:
        raise ValueError(f"a backoff strategy cannot be called {value!r}: that name is taken")


def _check_delay(_: object, __: object, value: Callable[[FailedAttempt], timedelta | None]) -> None:
    if inspect.iscoroutinefunction(value):
        raise ValueError("a backoff strategy is a plain function: a failed job waits for it")


@attrs.frozen
class BackoffStrategy:
    """One named strategy: the `type` in `backoff: { type: "...", delay: ... }` of a job's options."""

    name: str = attrs.field(validator=_check_name)
    delay: Callable[[FailedAttempt], timedelta | None] = attrs.field(validator=_check_delay)
    """Returns how long to wait, or `None` to fail the job for good. Must not block."""

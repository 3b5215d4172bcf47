"""Whether a failed job is tried again, and after how long."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core._bullmq.job import Backoff, StoredJob

__all__ = ["GiveUp", "NextStep", "RetryAfter", "next_step"]

_LONGEST_DELAY_MS = 10 * 365 * 24 * 3600 * 1000
"""Ten years: BullMQ keeps due times as `ms * 4096` in a double, which much more would overrun."""


@attrs.frozen
class RetryAfter:
    """Try again; 0 ms is at once."""

    delay_ms: int


@attrs.frozen
class GiveUp:
    """Fail for good; `because` says what stands in the way where it is not the attempts."""

    because: str | None = None


NextStep: TypeAlias = RetryAfter | GiveUp


def next_step(
    job: StoredJob,
    *,
    retryable: bool,
    random: Callable[[], float],
    max_started: int | None = None,
    custom: Callable[[Backoff], NextStep | None] | None = None,
) -> NextStep:
    """Decide what follows the failure of the attempt that has just run.

    `random` gives numbers in [0, 1) for the jitter; `custom` knows of other types of backoff than
    BullMQ's own, and answers `None` where it does not.
    """
    if not retryable or job.attempts_made + 1 >= job.options.attempts:
        return GiveUp()
    if max_started is not None and max_started <= job.attempts_started:
        return GiveUp()
    backoff = job.options.backoff
    if backoff is None:
        return RetryAfter(0)
    # The failed attempt counts: BullMQ's strategies are called with attemptsMade + 1.
    own = _delay(backoff, job.attempts_made + 1, random)
    if own is not None:
        return own
    return _limited(custom(backoff) if custom is not None else None) or GiveUp(
        f"unknown backoff type {backoff.type[:40]!r}: use 'fixed', 'exponential' or a plugin's"
    )


def _limited(step: NextStep | None) -> NextStep | None:
    if isinstance(step, RetryAfter) and step.delay_ms > _LONGEST_DELAY_MS:
        return RetryAfter(_LONGEST_DELAY_MS)
    return step


def _delay(backoff: Backoff, attempts_made: int, random: Callable[[], float]) -> NextStep | None:
    match backoff.type:
        case "fixed":
            longest = backoff.delay
        case "exponential":
            # 2 ** 1023 is the last that a float holds; the cap below is far under it.
            longest = _round_half_up(2.0 ** min(attempts_made - 1, 1000) * backoff.delay)
        case _:
            return None
    if longest < 0:
        return GiveUp()
    # Cut before the jitter, which would make "not a number" of an infinite delay.
    delay = longest = min(longest, _LONGEST_DELAY_MS)
    if backoff.jitter > 0:
        share = min(backoff.jitter, 1.0)
        delay = math.floor(random() * longest * share + longest * (1 - share))
    return RetryAfter(int(delay))


def _round_half_up(value: float) -> float:
    """Round as JavaScript's `Math.round` does; Python's rounds halves to even."""
    return math.floor(value + 0.5) if math.isfinite(value) else value

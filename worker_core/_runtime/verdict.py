"""What the end of a run means for its job, and what became of it when that was written down."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from worker_core._bullmq.replies import Claim, Nothing
from worker_core.job import Outcome

if TYPE_CHECKING:
    from datetime import timedelta

    from worker_core.errors import CircuitOpen

__all__ = [
    "Cancelled",
    "Completed",
    "Delayed",
    "Failed",
    "HeldBack",
    "LargeResult",
    "Lost",
    "PutBack",
    "Returned",
    "Settlement",
    "Verdict",
    "WaitsForChildren",
]


@attrs.frozen
class LargeResult:
    """An envelope too large for a return value, kept under a key of its own."""

    key: str
    value: bytes
    ttl: timedelta


@attrs.frozen
class Completed:
    """The job has an answer: the return value, and what it points to where it is a pointer."""

    value: bytes
    large: LargeResult | None = None


@attrs.frozen
class Failed:
    """The run failed; whether the job is tried again is decided as that is written."""

    error: Exception


@attrs.frozen
class Cancelled:
    """Somebody cancelled the job: it fails for good."""


@attrs.frozen
class Returned:
    """The job goes back to its queue, no attempt spent."""


@attrs.frozen
class Delayed:
    """The job runs again after a time, no attempt spent."""

    delay_ms: int


@attrs.frozen
class PutBack:
    """The engine may not be asked: the job runs again after a time, no attempt spent."""

    error: CircuitOpen
    delay_ms: int
    since_ms: int
    """When this attempt was put back for the first time, in milliseconds since the epoch."""


@attrs.frozen
class WaitsForChildren:
    """The job runs again when its children have ended, no attempt spent."""


@attrs.frozen
class HeldBack:
    """The queue is held back so long, and the job is at the head of it again, no attempt spent."""

    limit_ms: int


@attrs.frozen
class Lost:
    """The job belongs to another worker: nothing is written."""


Verdict: TypeAlias = (
    Completed
    | Failed
    | Cancelled
    | Returned
    | Delayed
    | PutBack
    | WaitsForChildren
    | HeldBack
    | Lost
)


@attrs.frozen
class Settlement:
    """How the run ended in the queue, and what came along with the finish."""

    outcome: Outcome
    following: Claim = Nothing()

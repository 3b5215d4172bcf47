"""Jobs whose engine may not be asked: put back, and the pause of their consumer.

Without the pause a long queue would be churned: each of its jobs claimed, refused and put back.
"""

from __future__ import annotations

import random
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING

from worker_core._runtime.circuits import HOST
from worker_core._runtime.verdict import Failed, PutBack

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core._bullmq.job import StoredJob
    from worker_core.errors import CircuitOpen

__all__ = ["ClaimPause", "put_back"]

_IN_A_ROW = 3
"""After so many jobs put back, one behind the other, no more are claimed."""
_OTHER_MODELS_SECONDS = 0.5
"""How long that lasts at most where other models may be asked: their jobs may stand behind."""
_SHORTEST_JITTER = timedelta(seconds=1)
_JITTER = 0.1
_MILLISECOND = timedelta(milliseconds=1)


def put_back(
    error: CircuitOpen, job: StoredJob, *, longest: timedelta, now_ms: int
) -> PutBack | Failed:
    """Say when a job runs again; one that has been put back for too `long` has failed."""
    since_ms = now_ms if job.put_off_since_ms is None else min(job.put_off_since_ms, now_ms)
    left = longest - (now_ms - since_ms) * _MILLISECOND
    if left <= timedelta():
        return Failed(error)
    # Behind the probes, and not all at once. Jitter, no secret.
    jitter = max(_SHORTEST_JITTER, error.retry_after * _JITTER) * random.random()  # noqa: S311
    delay = min(error.retry_after + jitter, left)
    return PutBack(error, max(1, delay // _MILLISECOND), since_ms)


class ClaimPause:
    """When a consumer claims nothing, as one job after the other had to be put back.

    `closings` counts how often circuits closed: then nobody knows what the next job would meet.
    """

    def __init__(self, closings: Callable[[], int]) -> None:
        self._closings = closings
        self._seen = closings()
        self._may_close_at: deque[float] = deque(maxlen=_IN_A_ROW)

    @property
    def until(self) -> float:
        """Until when, by the loop's clock; long ago where it may claim."""
        if len(self._may_close_at) < _IN_A_ROW or self._closings() != self._seen:
            return 0.0
        return min(self._may_close_at)

    def note_put_back(self, error: CircuitOpen, now: float) -> None:
        """Learn that a job was put back."""
        seconds = error.retry_after.total_seconds()
        if error.circuit != HOST:
            seconds = min(seconds, _OTHER_MODELS_SECONDS)
        if self._closings() != self._seen:
            self._seen = self._closings()
            self._may_close_at.clear()
        self._may_close_at.append(now + seconds)

    def note_other(self) -> None:
        """Learn that a run ended otherwise: the engine can be asked for something."""
        if self._may_close_at:
            self._may_close_at.clear()

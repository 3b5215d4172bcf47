"""Progress of jobs, at most twice a second each, the newest value winning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from worker_core.strict_json import Unpublishable, dumps

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core._bullmq.queue import Queue
    from worker_core._runtime.pump import Pump

__all__ = ["ProgressReporter"]

_log = structlog.get_logger("worker_core.progress")

_INTERVAL_SECONDS = 0.5


class ProgressReporter:
    """One job's progress. The first value goes out at once, later ones when their time has come."""

    __slots__ = ("_closed", "_job_id", "_may_write", "_next_at", "_pending", "_pump", "_queue")

    def __init__(
        self,
        pump: Pump,
        queue: Queue,
        job_id: str,
        *,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._pump = pump
        self._queue = queue
        self._job_id = job_id
        self._pending: object = None
        self._next_at = 0.0
        self._closed = False
        self._may_write = may_write

    def report(self, value: object) -> None:
        """Publish `value`, now or soon; what is not JSON is logged and dropped, null says nothing."""
        # A task of the job type's own may outlive the job that it reports for.
        if value is None or self._closed:
            return
        self._pending = value
        if anyio.current_time() >= self._next_at:
            self.flush()
        else:
            self._pump.remember(self)

    @property
    def due_at(self) -> float:
        """When the pending value may be sent, by the loop's clock."""
        return self._next_at

    def flush(self) -> None:
        """Send the pending value, if there is one."""
        value, self._pending = self._pending, None
        # BullMQ's script asks for no lock: a job that another worker has by now must be left alone.
        if value is None or not self._may_write():
            return
        self._next_at = anyio.current_time() + _INTERVAL_SECONDS
        try:
            # Written only now: of the many values between two sends, one is needed. What is not
            # strict JSON would stop Node's QueueEvents for good.
            written = dumps(value)
        except Unpublishable as error:
            _log.warning("progress is not JSON", job_id=self._job_id, reason=str(error))
            return
        self._queue.post_progress(self._job_id, written)

    def close(self) -> None:
        """Drop what is pending: the job has ended, and its result says more."""
        self._closed = True
        self._pending = None
        self._pump.forget(self)

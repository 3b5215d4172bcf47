"""The keeper of one queue: renews the locks of all its running jobs in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs
import structlog
import trio

from worker_core._runtime.scope import JobScope, StopReason
from worker_core.errors import RedisError

if TYPE_CHECKING:
    from datetime import timedelta

    from worker_core._bullmq.queue import Queue

__all__ = ["Keeper"]

_log = structlog.get_logger("worker_core.keeper")

_RETRY_SECONDS = 0.25


@attrs.define(eq=False)
class _Held:
    token: str
    scope: JobScope
    renewed_at: float


class Keeper:
    """Holds the running jobs of one queue and keeps their locks.

    A lock that could not be renewed is lost for good: that job's scope is cancelled, since another
    worker may run it by now.
    """

    def __init__(self, queue: Queue, renew_time: timedelta) -> None:
        self._queue = queue
        self._half = renew_time.total_seconds() / 2
        self._held: dict[str, _Held] = {}

    def hold(self, job_id: str, token: str, scope: JobScope, now: float) -> None:
        """Keep the lock of a job that was claimed a moment ago; `now` by the loop's clock."""
        before = self._held.get(job_id)
        if before is not None:
            # It stalled here, was put back and has come to another of our slots: the lock is that
            # one's now, and nobody would stop the first any more.
            before.scope.cancel(StopReason.LOCK_LOST)
        self._held[job_id] = _Held(token, scope, now)

    def release(self, job_id: str, token: str) -> None:
        """Keep a job's lock no more: its finish has been acknowledged."""
        held = self._held.get(job_id)
        # Another slot may hold the same job by now: returned, and claimed again.
        if held is not None and held.token == token:
            del self._held[job_id]

    def holds(self, job_id: str) -> bool:
        """Tell whether the job runs here."""
        return job_id in self._held

    def cancel(self, job_id: str) -> bool:
        """Stop a job for good, as somebody wishes; tell whether it runs here."""
        held = self._held.get(job_id)
        if held is None:
            return False
        held.scope.cancel(StopReason.CANCELLED)
        return True

    def is_sure_of(self, job_id: str) -> bool:
        """Tell whether a job's lock cannot have run out yet.

        It may have after the process stood still (SIGSTOP, a blocking plugin), until the next
        renewal says how it is.
        """
        held = self._held.get(job_id)
        lock_seconds = self._queue.options.lock_ms / 1000
        return held is not None and trio.current_time() - held.renewed_at < lock_seconds

    @property
    def scopes(self) -> list[JobScope]:
        """The scopes of the running jobs."""
        return [held.scope for held in self._held.values()]

    def __len__(self) -> int:
        return len(self._held)

    async def run(self) -> None:
        """Renew until cancelled."""
        pause = self._half
        while True:
            await anyio.sleep(pause)
            for scope in self.scopes:
                scope.enforce()
            # After a failure the next call goes out soon: it waits in the link for the reconnect,
            # and is the first thing sent when Redis is back.
            pause = self._half if await self._renew() else min(self._half, _RETRY_SECONDS)

    async def _renew(self) -> bool:
        """Renew what is due; tell whether the queue answered."""
        asked_at = trio.current_time()
        due = [(i, h) for i, h in self._held.items() if asked_at - h.renewed_at >= self._half]
        if not due:
            return True
        try:
            # Longer would renew with an old list: what waits unsent at the end of this bound is
            # withdrawn, and the next round sends a fresh one as soon as the link is back.
            with anyio.fail_after(self._half):
                lost = await self._queue.renew([(i, held.token) for i, held in due])
        except (RedisError, TimeoutError) as error:
            _log.warning(
                "locks not renewed; trying again",
                queue=self._queue.keys.name,
                jobs=len(due),
                reason=str(error) or "no connection to Redis",
            )
            return False
        for job_id, held in due:
            # By now the job may have ended, or be held by another slot.
            if self._held.get(job_id) is not held:
                continue
            if job_id in lost:
                _log.error(
                    "lock lost: the job is stopped", job_id=job_id, queue=self._queue.keys.name
                )
                held.scope.cancel(StopReason.LOCK_LOST)
            else:
                held.renewed_at = asked_at
        return True

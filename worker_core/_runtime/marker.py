"""The wait of an idle consumer: for the queue's marker, and for the time of a delayed job.

The server ends a block up to a tenth of a second late, so a delayed job's time is kept by a timer
here, while the block stays outstanding: to end it would cost a connection.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import structlog
import trio

from worker_core.errors import RedisError, ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core._bullmq.queue import Queue

__all__ = ["MarkerWatch"]

_log = structlog.get_logger("worker_core.consumer")

_LONGEST_WAIT_SECONDS = 10.0
"""A producer's delay may be anything; asking again so often costs nothing."""


class MarkerWatch:
    """Blocks on one queue's marker in a task of its own, at most once at a time.

    `has_free_slot` tells whether what is waiting could be claimed here at all.
    """

    def __init__(self, queue: Queue, has_free_slot: Callable[[], bool]) -> None:
        self._queue = queue
        self._has_free_slot = has_free_slot
        self.trouble: str | None = None
        """Why the server will not let the marker be waited for, if it will not."""
        self._wanted = trio.Event()
        self._stirred = trio.Event()
        self._found = False
        self._due_at = math.inf

    async def wait(self, *, due_at_ms: float) -> None:
        """Return when another claim is worth it; `due_at_ms`: when a delayed job is due, or 0."""
        if due_at_ms:
            self._note_due(due_at_ms)
        if not self._found:
            # Not beside a claim that follows at once: what that block popped would be put back, as
            # the claim's slot is not free, and be popped again.
            self._wanted.set()
        while not self._found and trio.current_time() < self._due_at:
            self._stirred = trio.Event()
            with trio.move_on_at(self._due_at):
                await self._stirred.wait()
        self._found = False
        self._due_at = math.inf

    async def run(self) -> None:
        """Block whenever it is wanted, until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                due_at_ms = await self._queue.wait_for_marker()
                self.trouble = None
            except ReplyError as error:
                # No outage: the user may not call it, say. What is left is to ask now and then.
                self._complain(str(error))
                await trio.sleep(self._queue.drain_delay.total_seconds())
                due_at_ms = None
            except RedisError as error:
                # Claiming is right after a lost block too: markers get lost with it.
                _log.debug(
                    "the wait for jobs was interrupted",
                    queue=self._queue.keys.name,
                    reason=str(error),
                )
                due_at_ms = None
            if due_at_ms and self._has_free_slot():
                # It told of a delayed job: that is waited for, and for what may come before it.
                self._note_due(due_at_ms)
            else:
                self._wanted = trio.Event()
                self._found = True
                if due_at_ms is not None and not self._has_free_slot():
                    # The timer was first, and took the last slot: another worker may have one.
                    self._queue.post_marker(due_at_ms)
            self._stirred.set()

    def _complain(self, reason: str) -> None:
        if self.trouble is None:
            name = self._queue.keys.name
            _log.error("jobs cannot be waited for, only asked for", queue=name, reason=reason)
        self.trouble = reason

    def _note_due(self, due_at_ms: float) -> None:
        seconds = due_at_ms / 1000 - time.time()
        at = trio.current_time() + min(seconds, _LONGEST_WAIT_SECONDS)
        self._due_at = min(self._due_at, at)

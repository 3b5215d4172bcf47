"""The watchdog: a thread that notices when the event loop hangs, and says where.

A plugin that blocks stops every job, every lock renewal and the health probes at once, and nothing
inside the loop can tell of it. The thread looks at a pulse that the loop gives.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Watchdog"]

_log = structlog.get_logger("worker_core.watchdog")

_REMEMBERED = timedelta(seconds=10).total_seconds()
"""How long after a freeze the worker still counts as not alive: one period of a probe, so that it is
seen, and not so long that a worker which has recovered is killed for it."""
_STACK_LIMIT = 30


class Watchdog:
    """Notices a pulse that is late by more than `limit`."""

    def __init__(self, limit: timedelta) -> None:
        self._limit = limit.total_seconds()
        self._beat_at = time.monotonic()
        self._frozen_since: float | None = None
        self._thawed_at: float | None = None
        self._last_freeze = 0.0
        self._ended = threading.Event()

    @property
    def frozen_reason(self) -> str | None:
        """Why the worker is not alive: the loop hangs, or hung a moment ago."""
        now = time.monotonic()
        if self._frozen_since is not None:
            return f"the event loop hangs for {now - self._frozen_since:.1f} s"
        if self._thawed_at is not None and now - self._thawed_at < _REMEMBERED:
            return f"the event loop hung for {self._last_freeze:.1f} s a moment ago"
        return None

    async def pulse(self) -> None:
        """Give the pulse until cancelled; runs in the loop that is watched."""
        while True:
            self._beat_at = time.monotonic()
            await anyio.sleep(self._limit / 4)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the thread that enters this, for the length of the block."""
        thread = threading.Thread(
            target=self._watch, args=(threading.get_ident(),), name="watchdog", daemon=True
        )
        self._beat_at = time.monotonic()
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(self._limit)

    def _watch(self, watched: int) -> None:
        while True:
            began, worked = time.monotonic(), time.process_time()
            if self._ended.wait(self._limit / 4):
                return
            now = time.monotonic()
            if now - began > self._limit and time.process_time() - worked < (now - began) / 10:
                # This thread was late as well, and nothing was computed: the process had been
                # stopped, or the machine slept. Nothing hangs.
                self._beat_at = now
                continue
            late = now - self._beat_at
            if late > self._limit and self._frozen_since is None:
                self._frozen_since = self._beat_at
                _log.critical(
                    "the event loop hangs: something blocks it",
                    seconds=round(late, 1),
                    stack=_stack_of(watched),
                )
            elif late <= self._limit and self._frozen_since is not None:
                self._last_freeze = self._beat_at - self._frozen_since
                self._thawed_at = time.monotonic()
                self._frozen_since = None
                _log.error("the event loop runs again", seconds=round(self._last_freeze, 1))


def _stack_of(thread: int) -> str:
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # the documented way to see another thread's stack
    if frame is None:
        return "unknown"
    return "".join(traceback.format_stack(frame)[-_STACK_LIMIT:])

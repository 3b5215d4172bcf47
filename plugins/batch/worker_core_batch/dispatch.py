"""Which items of a batch run at once, and which comes next."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import anyio
import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from worker_core_batch.sources import Entry, Requests

__all__ = ["Limits", "dispatch"]

_AHEAD_ITEMS = 500
_AHEAD_BYTES = 8 * 1024 * 1024
"""How far is read ahead, past items whose type has no room, to find some whose type has."""


@attrs.frozen(kw_only=True)
class Limits:
    """How many items run at once."""

    together: int
    of_type: Callable[[str], int] | None
    """How many of one type; `None`: as many as together."""

    def has_room(self, job_type: str, running: Counter[str]) -> bool:
        """Tell whether an item of that type may begin beside those that run."""
        if running.total() >= self.together:
            return False
        return self.of_type is None or running[job_type] < self.of_type(job_type)


async def dispatch(
    requests: Requests,
    run: Callable[[Entry], Awaitable[None]],
    *,
    limits: Limits,
    may_begin: Callable[[], bool],
) -> None:
    """Run the items of a batch, as many at once as may be; returns when all that began have ended.

    Where `may_begin` says no, nothing new begins. It is asked again whenever an item has ended.
    """
    async with anyio.create_task_group() as tasks:
        await _Dispatch(requests, run, limits, tasks).carry_out(may_begin)


class _Dispatch:
    def __init__(
        self,
        requests: Requests,
        run: Callable[[Entry], Awaitable[None]],
        limits: Limits,
        tasks: TaskGroup,
    ) -> None:
        self._requests = requests
        self._run = run
        self._limits = limits
        self._tasks = tasks
        self._ahead: dict[str, deque[Entry]] = {}
        self._ahead_items = 0
        self._ahead_bytes = 0
        self._is_read = False
        """Whether there is nothing more to read."""
        self._running: Counter[str] = Counter()
        self._ended = anyio.Event()

    async def carry_out(self, may_begin: Callable[[], bool]) -> None:
        while may_begin():
            entry = self._next()
            if entry is not None:
                self._begin(entry)
            elif self._may_read:
                await self._read()
            elif self._ahead_items or not self._is_read:
                await self._ended.wait()
                self._ended = anyio.Event()
            else:
                return

    def _next(self) -> Entry | None:
        """Take out the first item of those that may begin now."""
        ready = [
            waiting[0]
            for job_type, waiting in self._ahead.items()
            if waiting and self._limits.has_room(job_type, self._running)
        ]
        if not ready:
            return None
        entry = min(ready, key=lambda one: one.index)
        self._ahead[entry.type].popleft()
        self._ahead_items -= 1
        self._ahead_bytes -= entry.bytes
        return entry

    @property
    def _may_read(self) -> bool:
        """Whether reading on may find an item that can begin."""
        return (
            not self._is_read
            and self._running.total() < self._limits.together
            and self._ahead_items < _AHEAD_ITEMS
            and self._ahead_bytes < _AHEAD_BYTES
        )

    async def _read(self) -> None:
        page = await self._requests.next_page()
        self._is_read = not page
        for entry in page:
            self._ahead.setdefault(entry.type, deque()).append(entry)
            self._ahead_items += 1
            self._ahead_bytes += entry.bytes

    def _begin(self, entry: Entry) -> None:
        self._running[entry.type] += 1
        self._tasks.start_soon(self._carry, entry)

    async def _carry(self, entry: Entry) -> None:
        try:
            await self._run(entry)
        finally:
            self._running[entry.type] -= 1
            self._ended.set()

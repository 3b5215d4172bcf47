"""Calls that wait to be sent: in order, bounded, and withdrawn when their caller gives up."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from worker_core.errors import RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker_core.errors import RedisError
    from worker_core.redis.options import LinkOptions
    from worker_core.redis.resp import Reply
    from worker_core.redis.script import Script

_log = logging.getLogger(__name__)

__all__ = ["Call", "Outbox"]


class Call:
    """One call on its way; it lives in exactly one place at a time: outbox, in flight, or done."""

    __slots__ = (
        "abandoned",
        "data",
        "done",
        "error",
        "loads",
        "reply",
        "script",
        "sent_at",
        "waiter",
    )

    def __init__(self, data: bytes, script: Script | None = None) -> None:
        self.data = data
        self.script = script
        """What to load when the server does not know it."""
        # The task itself and no event: that is a fifth of the CPU of a call.
        self.waiter: trio.lowlevel.Task | None = None
        """Who waits for the reply; `None` where nobody does (a post)."""
        self.reply: Reply = None
        self.error: RedisError | None = None
        self.done = False
        self.abandoned = False
        """The caller was cancelled: never send it (again), and nobody wants its reply."""
        self.loads = 0
        """How often its script had to be loaded because of it."""
        self.sent_at = 0.0

    def answer(self, reply: Reply) -> None:
        """Hand the reply to the caller."""
        self.reply = reply
        self.done = True
        if self.waiter is not None:
            trio.lowlevel.reschedule(self.waiter)
            self.waiter = None

    def fail(self, error: RedisError) -> None:
        """Raise the error at the caller; a post's error goes to the log."""
        self.error = error
        self.done = True
        if self.waiter is not None:
            trio.lowlevel.reschedule(self.waiter)
            self.waiter = None
        elif not self.abandoned:
            _log.debug("a posted call failed: %s", error)


class Outbox:
    """A queue with one taker; a dictionary by nature, so that a caller can leave it at once."""

    def __init__(self, options: LinkOptions) -> None:
        self._options = options
        self._calls: OrderedDict[Call, None] = OrderedDict()
        self._bytes = 0
        self._filled = trio.Event()

    def __len__(self) -> int:
        return len(self._calls)

    def put(self, call: Call) -> None:
        """Queue a call; raises `RedisUnavailable` where a bound would be passed."""
        size = len(call.data)
        if len(self._calls) >= self._options.max_queued_calls:
            raise RedisUnavailable(
                f"{len(self._calls)} calls wait to be sent already (max_queued_calls)"
            )
        # An empty outbox takes a call of any size: such a call is no backlog.
        if self._calls and self._bytes + size > self._options.max_queued_bytes:
            raise RedisUnavailable(
                f"{self._bytes} bytes wait to be sent already (max_queued_bytes)"
            )
        self._calls[call] = None
        self._bytes += size
        self._filled.set()

    def put_back(self, calls: Sequence[Call]) -> None:
        """Put calls that were taken but not executed in front; they passed the bounds before."""
        for call in reversed(calls):
            if call.abandoned:
                continue
            self._calls[call] = None
            self._calls.move_to_end(call, last=False)
            self._bytes += len(call.data)
            self._filled.set()

    def withdraw(self, call: Call) -> None:
        """Forget a call if it still waits here."""
        call.abandoned = True
        if call in self._calls:
            del self._calls[call]
            self._bytes -= len(call.data)

    async def wait(self) -> None:
        """Return once there is something to take."""
        while not self._calls:
            self._filled = trio.Event()
            await self._filled.wait()

    def take(self, size: int) -> list[Call]:
        """The next calls in order, up to about `size` bytes and at least one."""
        if self._bytes <= size:
            batch = list(self._calls)
            self._calls.clear()
            self._bytes = 0
            return batch
        batch = []
        while self._calls and size > 0:
            call, _ = self._calls.popitem(last=False)
            batch.append(call)
            size -= len(call.data)
            self._bytes -= len(call.data)
        return batch

    def drain(self) -> list[Call]:
        """Take everything, to end it."""
        return self.take(self._bytes)

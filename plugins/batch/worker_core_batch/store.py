"""What is written of one batch, and read back when it goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import anyio
import attrs

from worker_core.batches import (
    BEGIN_BATCH,
    RECORD_ITEM,
    BatchKeys,
    BatchPhase,
    BatchState,
    read_state,
)
from worker_core.errors import ReplyLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from datetime import timedelta

    from worker_core.redis import Redis, Reply

__all__ = ["BatchStore", "ItemRecord"]

T = TypeVar("T")

_MS = 1000
_LAST_SECONDS = 5.0
"""How long an outcome may still take to be recorded when the batch was cancelled."""


@attrs.frozen(kw_only=True)
class ItemRecord:
    """How an item ended, ready to be recorded."""

    index: int
    written: bytes
    is_failure: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


class BatchStore:
    """Reads and writes one batch. Each call may be made twice, so one whose reply is lost is.

    An outage is waited out for as long as the job's lock is held.
    """

    def __init__(self, redis: Redis, keys: BatchKeys, ttl: timedelta) -> None:
        self._redis = redis
        self._ttl_ms = max(1, round(ttl.total_seconds() * _MS))
        self._all = (keys.requests, keys.items, keys.state)
        self.keys = keys
        self.ttl_seconds = round(ttl.total_seconds())

    async def begin(self, *, created_ms: int, total: int, limit: timedelta | None) -> BatchState:
        """Open a batch or go on with it, and return how far it is."""
        limit_ms = "" if limit is None else round(limit.total_seconds() * _MS)
        args = (created_ms, total, limit_ms, self._ttl_ms)
        reply = await _sure(lambda: self._redis.script(BEGIN_BATCH, self._all, args))
        return read_state(reply) or BatchState()

    async def enter(self, phase: BatchPhase) -> None:
        """Note what is done now."""
        await self._set("status", phase.value)
        if phase is BatchPhase.IN_PROGRESS:
            await self._call("HSETNX", self.keys.state, "started_ms", now_ms())

    async def end(self, phase: BatchPhase) -> None:
        """Note how it ended; the requests of one that is complete are of no use any more."""
        await self._set("status", phase.value, "ended_ms", now_ms())
        if phase is BatchPhase.COMPLETED:
            await self._call("UNLINK", self.keys.requests)
        for key in self._all:
            await self._call("PEXPIRE", key, self._ttl_ms)

    async def done(self) -> set[int]:
        """Return the indexes of the items that have an outcome."""
        reply = await self._call("HKEYS", self.keys.items)
        found = reply if isinstance(reply, list) else []
        return {int(one) for one in found if isinstance(one, bytes) and one.isdigit()}

    async def record(self, outcome: ItemRecord) -> None:
        """Record how an item ended, also while the batch is being cancelled."""
        field = "failed" if outcome.is_failure else "completed"
        tokens = outcome.prompt_tokens, outcome.completion_tokens
        args = (outcome.index, outcome.written, field, *tokens, self._ttl_ms)

        async def record() -> None:
            await _sure(lambda: self._redis.script(RECORD_ITEM, self._all, args))

        try:
            await record()
        except anyio.get_cancelled_exc_class():
            # What was computed is kept. Twice is no harm: the first outcome of an item counts.
            with anyio.move_on_after(_LAST_SECONDS, shield=True):
                await record()
            raise

    async def outcomes(self, indexes: Iterable[int]) -> list[bytes]:
        """Return the outcomes of these items, of which each has one."""
        reply = await self._call("HMGET", self.keys.items, *indexes)
        return [one for one in reply if isinstance(one, bytes)] if isinstance(reply, list) else []

    async def stored(self) -> int:
        """Return how many requests are stored."""
        reply = await self._call("LLEN", self.keys.requests)
        return reply if isinstance(reply, int) else 0

    async def requests(self, begin: int, count: int) -> list[bytes]:
        """Return so many stored requests from an index on."""
        reply = await self._call("LRANGE", self.keys.requests, begin, begin + count - 1)
        return [one for one in reply if isinstance(one, bytes)] if isinstance(reply, list) else []

    async def state(self) -> BatchState:
        """Return how far the batch is."""
        return read_state(await self._call("HGETALL", self.keys.state)) or BatchState()

    async def put_off(self) -> float:
        """Note that the batch is put off, and return for how many seconds nothing has ended."""
        now = now_ms()
        await self._call("HSETNX", self.keys.state, "waiting_since_ms", now)
        since = (await self.state()).waiting_since_ms
        return 0.0 if since is None else (now - since) / _MS

    async def give_up(self) -> None:
        """Forget how long nothing has ended: another attempt has as much patience."""
        await self._call("HDEL", self.keys.state, "waiting_since_ms")

    async def _set(self, *fields: str | int) -> None:
        await self._call("HSET", self.keys.state, *fields)

    async def _call(self, *args: str | int) -> Reply:
        return await _sure(lambda: self._redis.call(*args))


async def _sure(call: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await call()
        except ReplyLost:
            # The link itself waits until there is a connection again.
            await anyio.lowlevel.checkpoint()


def now_ms() -> int:
    """Return the time as jobs have it: milliseconds since the epoch."""
    return int(time.time() * _MS)

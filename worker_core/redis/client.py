"""What a plugin sees of Redis: calls, scripts and streams."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs

from worker_core.errors import RedisError, RedisUnavailable, ReplyError
from worker_core.redis.blocking import BlockingLink, open_blocking_link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import Self

    from worker_core.redis.link import Link
    from worker_core.redis.resp import Arg, Reply
    from worker_core.redis.script import Script

__all__ = ["Entry", "Redis", "StreamReader"]

# What a reply may need on its way once the server's block time is over.
_MARGIN = 1.0
_PAGE = 100


@attrs.frozen
class Entry:
    """One entry of a stream."""

    id: bytes
    fields: dict[bytes, bytes]


class Redis:
    """The worker's own connection to Redis, shared with plugins; errors are those of `Link.call`."""

    def __init__(self, link: Link, *, prefix: str = "bull") -> None:
        self._link = link
        self.prefix = prefix
        """What the keys of the queues begin with. Keys of a plugin's own should begin with it too:
        in a Cluster, others are on nodes that the worker does not speak to."""

    async def call(self, *args: Arg) -> Reply:
        """Make one call and return its reply, text as bytes; no blocking commands."""
        return await self._link.call(*args)

    async def script(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg] = ()
    ) -> Reply:
        """Run a Lua script."""
        return await self._link.run_script(script, keys, args)

    @asynccontextmanager
    async def stream(
        self,
        key: str | bytes,
        *,
        after: str | bytes | None = None,
        block: float = 5.0,
        patience: float = 60.0,
    ) -> AsyncIterator[StreamReader]:
        """Follow a stream: `async with redis.stream(key) as entries: async for entry in entries`.

        Begins behind the entry `after`, by default behind the last one there is now. The reading
        connection is its own and lasts as long as the context; an outage of up to `patience`
        seconds is waited out without losing an entry, a longer one raises `RedisUnavailable`.
        `block` is how long, in seconds, the server holds one read.
        """
        start = after if after is not None else await self._last_id(key)
        async with open_blocking_link(self._link.connector) as link:
            yield StreamReader(link, key, start, block=block, patience=patience)

    async def _last_id(self, key: str | bytes) -> str | bytes:
        # Not "$": after a reconnect that would mean another place, and skip what came meanwhile.
        newest = await self.call("XREVRANGE", key, "+", "-", "COUNT", 1)
        entries = _entries(newest)
        return entries[0].id if entries else "0-0"


class StreamReader:
    """The entries of one stream in order, endlessly; after an error it goes on where it was."""

    def __init__(
        self,
        link: BlockingLink,
        key: str | bytes,
        after: str | bytes,
        *,
        block: float,
        patience: float,
    ) -> None:
        self._link = link
        self._key = key
        self._after = after
        self._block = block
        self._patience = patience
        self._page: list[Entry] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Entry:
        outage: float | None = None
        while not self._page:
            try:
                self._page = (await self._read())[::-1]
                outage = None
            except ReplyError:
                raise
            except RedisError as error:
                # Reading changes nothing, so a lost reply is no reason not to read again. The
                # link itself waits between attempts.
                now = anyio.current_time()
                outage = now if outage is None else outage
                if now - outage >= self._patience:
                    raise RedisUnavailable(
                        f"the stream could not be read for {self._patience:g} s: {error}"
                    ) from error
        entry = self._page.pop()
        self._after = entry.id
        return entry

    async def _read(self) -> list[Entry]:
        reply = await self._link.call(
            *("XREAD", "COUNT", _PAGE, "BLOCK", max(round(self._block * 1000), 1)),
            *("STREAMS", self._key, self._after),
            within=self._block + _MARGIN,
        )
        if not isinstance(reply, list):
            return []
        # One stream was asked for: [[key, entries]].
        return [
            entry for stream in reply if isinstance(stream, list) for entry in _entries(stream[1])
        ]


def _entries(reply: Reply) -> list[Entry]:
    """Entries of a stream as XRANGE and XREAD list them: `[[id, [name, value, ...]], ...]`."""
    entries: list[Entry] = []
    for item in reply if isinstance(reply, list) else ():
        match item:
            case [bytes(entry_id), [*flat]]:
                parts = [part for part in flat if isinstance(part, bytes)]
                entries.append(Entry(entry_id, dict(zip(parts[::2], parts[1::2], strict=True))))
            case _:  # [id, None]: deleted between its arrival and this reading
                continue
    return entries

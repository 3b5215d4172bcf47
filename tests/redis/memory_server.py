"""A server in memory for pure tests: no process and no socket, so that the clock may be virtual."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import hiredis
import trio
import trio.testing
from anyio.abc import ByteStream

from worker_core.redis import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from worker_core.redis.topology import Ask


class MemoryStream(ByteStream):
    """trio's stream in memory, as anyio's streams behave."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data = bytes(await self.stream.receive_some(max_bytes))
        except trio.ClosedResourceError as error:
            raise anyio.ClosedResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        try:
            await self.stream.send_all(item)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self.stream.aclose()


class MemoryServer:
    """Dials to itself; answers PING and, unless told otherwise, each call with its last argument."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.endpoint = Endpoint(host="memory")
        self.prefix: str | None = None
        self.received: list[tuple[bytes, ...]] = []
        self.pings = 0
        self.dials: list[float] = []
        self.reachable = True
        self.silent = False
        self.answer: Callable[[tuple[bytes, ...]], bytes] = echo
        self.ends: list[trio.abc.Stream] = []
        self._nursery = nursery

    async def dial(self) -> ByteStream:
        self.dials.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if not self.reachable:
            raise ConnectionRefusedError("nobody is there")
        ours, theirs = trio.testing.memory_stream_pair()
        self.ends.append(theirs)
        self._nursery.start_soon(self._serve, theirs)
        return MemoryStream(ours)

    async def confirm(self, ask: Ask, *, doubted: bool) -> None:
        """Always the right one."""

    async def watch(self) -> None:
        """Always the right one."""

    async def cut(self) -> None:
        """End the newest connection."""
        await self.ends[-1].aclose()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        parser = hiredis.Reader()
        try:
            while data := await stream.receive_some():
                parser.feed(bytes(data))
                while (call := parser.gets()) is not False:
                    if self.silent:
                        continue
                    if call == [b"PING"]:
                        self.pings += 1
                        await stream.send_all(b"+PONG\r\n")
                    else:
                        self.received.append(tuple(call))
                        await stream.send_all(self.answer(tuple(call)))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return


@asynccontextmanager
async def memory_server() -> AsyncIterator[MemoryServer]:
    """A server for the length of the context, which has an hour of the virtual clock."""
    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            yield MemoryServer(nursery)
            nursery.cancel_scope.cancel()


def echo(call: tuple[bytes, ...]) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(call[-1]), call[-1])

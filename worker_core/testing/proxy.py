"""A TCP proxy that misbehaves on request, for tests of what happens when the network does."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import ByteReceiveStream, ByteSendStream, SocketStream

__all__ = ["ChaosProxy", "open_chaos_proxy"]

_STREAM_ENDS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
# "Linger, for no time": closing then sends RST in place of FIN.
_LINGER_NOT = struct.pack("ii", 1, 0)


class ChaosProxy:
    """Forwards connections to one server until told otherwise; made by `open_chaos_proxy`."""

    def __init__(self, host: str, port: int, target_host: str, target_port: int) -> None:
        self.host = host
        self.port = port
        self.delay = 0.0
        """Seconds that each chunk is held back, in both directions."""
        self.refusing = False
        """Whether new connections are closed at once."""
        self.accepted = 0
        """How many connections came in so far."""
        self.forwarded = 0
        """How many bytes went through so far, both directions together."""
        self._target = (target_host, target_port)
        self._open: set[anyio.CancelScope] = set()
        self._resetting = False
        self._passable = anyio.Event()
        self._passable.set()

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    def cut(self, *, reset: bool = False) -> int:
        """End every open connection on both sides, with RST or else FIN; returns how many."""
        self._resetting = reset
        cut = tuple(self._open)
        self._open.clear()
        for scope in cut:
            scope.cancel()
        return len(cut)

    def blackhole(self) -> None:
        """Keep connections and accept new ones, and forward nothing: a partition, a frozen peer."""
        if self._passable.is_set():
            self._passable = anyio.Event()

    def restore(self) -> None:
        """End the blackhole; what was held back arrives now."""
        self._passable.set()

    async def handle(self, client: SocketStream) -> None:
        """Serve one connection that came in."""
        self.accepted += 1
        async with client:
            if self.refusing:
                return
            try:
                server = await anyio.connect_tcp(*self._target)
            except OSError:
                return
            async with server:
                await self._forward_both(client, server)

    async def _forward_both(self, client: SocketStream, server: SocketStream) -> None:
        async with anyio.create_task_group() as tasks:
            scope = tasks.cancel_scope
            self._open.add(scope)
            tasks.start_soon(self._forward, client, server, scope)
            tasks.start_soon(self._forward, server, client, scope)
        if scope in self._open:  # an end came to one side; otherwise `cut` has taken it out
            self._open.discard(scope)
        elif self._resetting:
            for stream in (client, server):
                raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610  # not Django's
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)

    async def _forward(
        self, source: ByteReceiveStream, sink: ByteSendStream, scope: anyio.CancelScope
    ) -> None:
        try:
            while True:
                chunk = await source.receive()
                if self.delay:
                    await anyio.sleep(self.delay)
                await self._passable.wait()
                await sink.send(chunk)
                self.forwarded += len(chunk)
        except _STREAM_ENDS:
            scope.cancel()


@asynccontextmanager
async def open_chaos_proxy(
    target_host: str, target_port: int, *, host: str = "127.0.0.1"
) -> AsyncIterator[ChaosProxy]:
    """Listen on a free port for the length of the context; every connection ends with it."""
    listeners = await anyio.create_tcp_listener(local_host=host)
    port = listeners.extra(SocketAttribute.local_port)  # noqa: S610  # anyio's, not Django's
    proxy = ChaosProxy(host, port, target_host, target_port)
    failure: Exception | None = None
    async with listeners, anyio.create_task_group() as tasks:
        tasks.start_soon(listeners.serve, proxy.handle)
        try:
            yield proxy
        except Exception as error:  # noqa: BLE001  # raised again below
            failure = error
        tasks.cancel_scope.cancel()
    # Outside of the group, which would wrap a test's failed assertion.
    if failure is not None:
        raise failure

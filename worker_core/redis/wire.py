"""Sending and receiving on one connection: straight on the socket where there is one.

anyio's and trio's streams give way to other tasks around each operation and try the socket before
they wait for it. On a connection that carries thousands of short messages a second that is half of
the work. What is not a socket (TLS, streams of tests) goes through its stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import anyio
import trio
from anyio.abc import SocketAttribute, SocketStream

if TYPE_CHECKING:
    import socket

    from anyio.abc import ByteStream

__all__ = ["EagerWire", "Wire", "wire_of"]


class Wire(Protocol):
    """One task at a time may send, and one receive; errors are those of anyio's streams."""

    async def send(self, data: bytes) -> None:
        """Send all of it."""

    async def receive(self, max_bytes: int) -> bytes:
        """Wait for something and return it; `EndOfStream` at the end."""
        ...


@runtime_checkable
class EagerWire(Wire, Protocol):
    """A wire that can send without waiting."""

    def send_at_once(self, data: bytes) -> int:
        """Send what can be sent without waiting, and return how many bytes that was."""
        ...


def wire_of(stream: ByteStream) -> Wire:
    """Return the shortest way over a stream, which stays the one to be closed."""
    # A TLS stream would give its raw socket as well, and that carries no plain bytes.
    if isinstance(stream, SocketStream):
        return _SocketWire(stream.extra(SocketAttribute.raw_socket))  # noqa: S610  # anyio's, not Django's
    return stream


class _SocketWire:
    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw

    async def send(self, data: bytes) -> None:
        sent = self.send_at_once(data)
        while sent < len(data):
            await trio.lowlevel.wait_writable(self._raw)
            sent += self.send_at_once(memoryview(data)[sent:])

    def send_at_once(self, data: bytes | memoryview) -> int:
        try:
            return self._raw.send(data)
        except BlockingIOError:
            return 0

    async def receive(self, max_bytes: int) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._raw)
            try:
                data = self._raw.recv(max_bytes)
            except BlockingIOError:
                continue
            if not data:
                raise anyio.EndOfStream
            return data

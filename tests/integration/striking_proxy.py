"""A proxy that kills its client at a chosen call: before the server has it, or when it has run and
the client has not been told."""

from __future__ import annotations

import enum
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.abc import SocketStream

__all__ = ["Moment", "StrikingProxy", "open_striking_proxy"]

_STREAM_ENDS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Moment(enum.Enum):
    """When it strikes."""

    BEFORE = "the call is not passed on"
    AFTER = "the call is passed on, and its reply is not"


@attrs.define
class StrikingProxy:
    """Made by `open_striking_proxy`; set `strike` before the call comes."""

    port: int
    target_port: int
    marker: bytes
    """What the call is known by."""
    moment: Moment
    strike: Callable[[], None]
    struck: anyio.Event = attrs.field(factory=anyio.Event)
    _called: bool = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def handle(self, client: SocketStream) -> None:
        async with client:
            server = await anyio.connect_tcp("127.0.0.1", self.target_port)
            async with server, anyio.create_task_group() as tasks:
                tasks.start_soon(self._carry_calls, client, server, tasks.cancel_scope)
                tasks.start_soon(self._carry_replies, server, client, tasks.cancel_scope)

    async def _carry_calls(
        self, client: SocketStream, server: SocketStream, scope: anyio.CancelScope
    ) -> None:
        seen = b""
        try:
            while not self.struck.is_set():
                chunk = await client.receive()
                seen = seen[-len(self.marker) :] + chunk
                if self.marker in seen:
                    if self.moment is Moment.BEFORE:
                        self._end()
                        break
                    self._called = True
                await server.send(chunk)
        except _STREAM_ENDS:
            pass
        scope.cancel()

    async def _carry_replies(
        self, server: SocketStream, client: SocketStream, scope: anyio.CancelScope
    ) -> None:
        try:
            while not self.struck.is_set():
                chunk = await server.receive()
                if self._called:
                    self._end()
                    break
                await client.send(chunk)
        except _STREAM_ENDS:
            pass
        scope.cancel()

    def _end(self) -> None:
        if not self.struck.is_set():
            self.strike()
            self.struck.set()


@asynccontextmanager
async def open_striking_proxy(
    target_port: int, marker: bytes, moment: Moment
) -> AsyncIterator[StrikingProxy]:
    """Listen on a free port for the length of the context."""
    listeners = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listeners.extra(SocketAttribute.local_port)
    proxy = StrikingProxy(port, target_port, marker, moment, lambda: None)
    failure: Exception | None = None
    async with listeners, anyio.create_task_group() as tasks:
        tasks.start_soon(listeners.serve, proxy.handle)
        try:
            yield proxy
        except Exception as error:  # noqa: BLE001  # raised again below
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure

"""Which server a link talks to, and how it gets there.

The seam for everything beyond one plain server. TLS wraps the stream that `dial` returns;
Sentinel asks where the primary is before each `dial` and checks its role in `confirm`; Cluster
dials the node that owns the prefix's slot. The link itself knows none of them.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio.abc import SocketAttribute

from worker_core.errors import RedisUnavailable, ReplyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream, SocketStream

    from worker_core.redis.endpoint import Endpoint
    from worker_core.redis.resp import Arg, Reply

__all__ = ["Ask", "Connector", "DirectConnector"]

# On by default after two hours only; with these a peer that vanished is noticed in a minute.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class Ask(Protocol):
    """One call on a connection that nobody else uses yet; an error reply is raised."""

    def __call__(self, *args: Arg) -> Awaitable[Reply]:
        """Send the call and wait for its reply."""


class Connector(Protocol):
    """Finds the server and opens a stream to it; asked anew at each connect."""

    @property
    def endpoint(self) -> Endpoint:
        """The credentials and the database, and what messages call the server."""

    async def dial(self) -> ByteStream:
        """Open a stream; raises `OSError` or `RedisUnavailable`. The caller bounds the time."""

    async def confirm(self, ask: Ask, *, doubted: bool) -> None:
        """Raise `RedisUnavailable` unless this is the right server; called once signed in.

        `doubted`: the last connection ended because its server refused to serve.
        """


class DirectConnector:
    """One server at a fixed address, over TCP or a Unix socket."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def dial(self) -> ByteStream:
        """Open the stream."""
        if self.endpoint.path is not None:
            return await anyio.connect_unix(self.endpoint.path)
        stream = await anyio.connect_tcp(self.endpoint.host, self.endpoint.port)
        _tune(stream)
        return stream

    async def confirm(self, ask: Ask, *, doubted: bool) -> None:
        """After a refusal, wait until the server is a primary again."""
        # Not asked otherwise: a restricted user may not call ROLE, and each refusal is logged.
        if not doubted:
            return
        try:
            role = await ask("ROLE")
        except ReplyError:
            return
        if isinstance(role, list) and role and role[0] == b"slave":
            raise RedisUnavailable("the server is a read-only replica")


def _tune(stream: SocketStream) -> None:
    raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610  # anyio's, not Django's
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option: Callable[[], int] | int | None = getattr(socket, name, None)
        if isinstance(option, int):  # macOS names one of them differently
            raw.setsockopt(socket.IPPROTO_TCP, option, value)

"""A stream to one server: TCP or a Unix socket, with TLS or without."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute

from worker_core.redis.tls import secure

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream, SocketStream

    from worker_core.redis.endpoint import Endpoint

__all__ = ["dial"]

# On by default after two hours only; with these a peer that vanished is noticed in a minute.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


async def dial(endpoint: Endpoint) -> ByteStream:
    """Open a stream to the one server of an endpoint; raises `OSError` or `RedisUnavailable`."""
    if endpoint.path is not None:
        return await anyio.connect_unix(endpoint.path)
    stream = await anyio.connect_tcp(endpoint.host, endpoint.port)
    try:
        _tune(stream)
        if endpoint.tls is None:
            return stream
        return await secure(stream, endpoint.tls, endpoint.host)
    except BaseException:
        with anyio.CancelScope(shield=True):
            # Bounded: aclose_forcefully runs in a cancelled scope of its own.
            await anyio.aclose_forcefully(stream)
        raise


def _tune(stream: SocketStream) -> None:
    raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610  # anyio's, not Django's
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option: Callable[[], int] | int | None = getattr(socket, name, None)
        if isinstance(option, int):  # macOS names one of them differently
            raw.setsockopt(socket.IPPROTO_TCP, option, value)

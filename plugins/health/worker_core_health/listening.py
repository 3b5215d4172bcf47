"""The listening socket: opened before anything is served, so that a taken port is known at once."""

from __future__ import annotations

import errno
import socket

import anyio

__all__ = ["explain", "listen", "url_of"]

_BACKLOG = 100
_RESOLVE_SECONDS = 5.0
_UNREAD_MS = 5000
"""How long a client may leave its answer unread."""


async def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket on the host's first address, IPv4 before IPv6; raises `OSError`."""
    with anyio.fail_after(_RESOLVE_SECONDS):
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # "localhost" is both, and probes are told 127.0.0.1.
    family, kind, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    listener = socket.socket(family, kind)
    try:
        listener.settimeout(0)
        # A worker that starts again must not wait for its last connections to be forgotten.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bound_sending(listener)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _bound_sending(listener: socket.socket) -> None:
    # Hypercorn shields its sends, without a limit: one client that reads nothing would keep the
    # worker from stopping. Connections inherit the option; it is Linux' alone.
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, _UNREAD_MS)


def url_of(listener: socket.socket) -> str:
    """Return where the socket is reached."""
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def explain(error: OSError, host: str, port: int) -> str:
    """Say why listening failed, and what to do about it."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken; set plugins.health.port"
    return f"{host}:{port}: {error.strerror or str(error) or type(error).__name__}"

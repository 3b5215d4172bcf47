"""Finding a port that a server may listen on, now and when it is started again."""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

_FIRST, _LAST = 15_000, 32_000
"""Below what systems give to outgoing connections (Linux: from 32768 on): a connection that somebody
opens while the server is stopped must not take its port."""
_TRIES = 100


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on; raises `OSError` where none is found."""
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)  # noqa: S311  # no secret: apart from others who look
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port found from {_FIRST} to {_LAST}")

"""Hypercorn, inside the worker's own tree: on a socket that is there already, without signals."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import hypercorn.trio
from hypercorn.config import Config, Sockets

if TYPE_CHECKING:
    import socket

    from quart_trio import QuartTrio

__all__ = ["serve"]

_GRACE_SECONDS = 0.5
"""What answers under way get at the end."""
_END_SECONDS = 2.0
"""After that the server is cancelled."""


class _OnSocket(Config):
    """Serves on one socket. (Its `fd://` would make a second owner of the descriptor.)"""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__()
        self._listener = listener
        self.errorlog = logging.getLogger("hypercorn.error")
        self.accesslog = None
        self.include_server_header = False
        self.graceful_timeout = _GRACE_SECONDS
        self.shutdown_timeout = _GRACE_SECONDS

    def create_sockets(self) -> Sockets:
        """Return the socket."""
        return Sockets([], [self._listener], [])


async def serve(app: QuartTrio, listener: socket.socket) -> None:
    """Serve until cancelled; answers under way are finished then, within a bound."""
    ending = anyio.Event()
    # From the cancellation on it has a deadline, set below.
    serving = anyio.CancelScope(shield=True)

    async def run() -> None:
        with serving:
            await hypercorn.trio.serve(
                app, _OnSocket(listener), shutdown_trigger=ending.wait, mode="asgi"
            )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            await anyio.sleep_forever()
        finally:
            ending.set()
            serving.deadline = anyio.current_time() + _END_SECONDS

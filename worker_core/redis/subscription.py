"""Messages that are published on channels: on a connection of their own that comes back by itself."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, NoReturn

import anyio

from worker_core.errors import RedisUnavailable, ReplyError
from worker_core.redis.connection import BROKEN, Connection, connect, describe
from worker_core.redis.options import LinkOptions
from worker_core.redis.resp import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from worker_core.redis.resp import Reply
    from worker_core.redis.topology import Connector

__all__ = ["Subscription"]

_RANDOM = random.SystemRandom()
_log = logging.getLogger(__name__)

_PING = pack("PING")
_REFUSED_PAUSE_SECONDS = 60.0
"""A user who may not subscribe is likely not to be allowed to in a second either, and each refusal
is logged by the server."""


class Subscription:
    """Hears what is published on some channels while `run` runs.

    `on_change` is called with `True` when every channel is heard, and with `False` when that is over
    or cannot be had, at each change. Messages that are published in between are lost, so whoever must not
    miss one keeps it elsewhere too, and looks there at each `True`. Neither callback may block.
    """

    def __init__(
        self,
        connector: Connector,
        channels: Iterable[str],
        *,
        on_message: Callable[[str, bytes], None],
        on_change: Callable[[bool], None],
        options: LinkOptions | None = None,
    ) -> None:
        self._connector = connector
        self._channels = tuple(channels)
        self._on_message = on_message
        self._on_change = on_change
        self._options = options or LinkOptions()
        self._pending = 0
        """How many channels have not been confirmed."""
        self._failures = 0
        self._told: bool | None = None

    async def run(self) -> NoReturn:
        """Connect, subscribe and listen, and again whenever that ends; until cancelled."""
        while True:
            try:
                connection = await connect(self._connector, timeout=self._options.connect_timeout)
                try:
                    await self._listen(connection)
                finally:
                    await connection.close()  # noqa: ASYNC102  # close() shields itself and waits for nothing
            except (*BROKEN, RedisUnavailable) as error:
                pause = self._options.backoff.delay(self._failures, _RANDOM)
                self._note(describe(error))
            except ReplyError as error:
                pause = _REFUSED_PAUSE_SECONDS
                self._note(str(error))
            await anyio.sleep(pause)

    async def _listen(self, connection: Connection) -> NoReturn:
        self._pending = len(self._channels)
        await self._send(connection, pack("SUBSCRIBE", *self._channels))
        while True:
            match await self._next(connection):
                case [b"message", bytes(channel), bytes(message)]:
                    self._on_message(channel.decode("utf-8", "replace"), message)
                case [b"subscribe", *_]:
                    self._confirmed()
                case ReplyError() as error:
                    raise error
                case _:  # the answer to a ping
                    pass

    async def _next(self, connection: Connection) -> Reply:
        """Wait for what the server says, and in a long silence ask whether it is there."""
        options = self._options
        with anyio.move_on_after(options.reply_timeout if self._pending else options.ping_interval):
            return await connection.receive()
        await self._send(connection, _PING)
        with anyio.fail_after(options.reply_timeout):
            return await connection.receive()

    async def _send(self, connection: Connection, data: bytes) -> None:
        with anyio.fail_after(self._options.reply_timeout):
            await connection.stream.send(data)

    def _confirmed(self) -> None:
        self._pending -= 1
        if not self._pending:
            self._failures = 0
            self._tell(heard=True)

    def _tell(self, *, heard: bool) -> None:
        if heard is not self._told:
            self._told = heard
            self._on_change(heard)

    def _note(self, reason: str) -> None:
        self._tell(heard=False)
        # The first of a row is news, the others are the same outage.
        level = logging.DEBUG if self._failures else logging.WARNING
        self._failures += 1
        _log.log(level, "channels of %s are not heard: %s", self._connector.endpoint, reason)

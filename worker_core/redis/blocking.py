"""Blocking calls (BZPOPMIN, XREAD BLOCK): one at a time, on a connection of their own."""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from worker_core.errors import RedisUnavailable, ReplyError, ReplyLost
from worker_core.redis.connecting import connector_to
from worker_core.redis.connection import BROKEN, REFUSALS, Connection, connect, describe
from worker_core.redis.endpoint import Endpoint
from worker_core.redis.options import LinkOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker_core.redis.resp import Arg, Reply
    from worker_core.redis.topology import Connector

__all__ = ["BlockingLink", "open_blocking_link"]

_RANDOM = random.SystemRandom()
_log = logging.getLogger(__name__)

# A server that becomes a replica ends its blocked calls with UNBLOCKED; they did nothing.
_REFUSALS = REFUSALS | {"UNBLOCKED"}


class BlockingLink:
    """One blocking call at a time; connects when called, and never repeats a call.

    What goes wrong with the connection is raised at once, as `RedisUnavailable` (not sent, or not
    executed) or `ReplyLost` (sent, unknown whether executed). The call after a failure waits
    first, longer after each failure in a row up to `options.backoff.maximum`; so a caller may
    just call again in a loop.
    """

    def __init__(self, connector: Connector, *, name: str | None, options: LinkOptions) -> None:
        self._connector = connector
        self._name = name
        self._options = options
        self._connection: Connection | None = None
        self._failures = 0
        self._doubted = False
        self._guard = anyio.ResourceGuard("calling on")

    @property
    def endpoint(self) -> Endpoint:
        """The server's address and credentials."""
        return self._connector.endpoint

    @property
    def is_connected(self) -> bool:
        """Whether the last call left a connection behind."""
        return self._connection is not None

    async def call(self, *args: Arg, within: float) -> Reply:
        """Make one call and wait `within` seconds for its reply: the server's block time and a margin.

        Connecting is not part of `within`; it has the bounds of the options. Past `within`, and
        when cancelled, the connection is closed, so that the server forgets the blocked client.
        Raises `ReplyError`, `RedisUnavailable` or `ReplyLost`; `anyio.BusyResourceError` while
        another call runs.
        """
        with self._guard:
            connection = self._connection or await self._connect()
            try:
                reply = await _ask(connection, args, within)
            except ReplyError as error:
                if error.code not in _REFUSALS:
                    self._failures = 0
                    raise
                self._doubted = True
                await self._drop(f"the server refuses to serve: {error}")  # noqa: ASYNC120  # closing waits for nothing
                raise RedisUnavailable(f"{self.endpoint} refuses to serve: {error}") from error
            except ReplyLost as error:
                await self._drop(str(error))  # noqa: ASYNC120  # closing waits for nothing
                raise
            except BaseException:
                self._connection = None
                await connection.close()  # noqa: ASYNC102  # close() shields itself and waits for nothing
                raise
            self._failures = 0
            return reply

    async def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connect(self) -> Connection:
        if self._failures:
            await anyio.sleep(self._options.backoff.delay(self._failures, _RANDOM))
        try:
            self._connection = await connect(
                self._connector,
                timeout=self._options.connect_timeout,
                name=self._name,
                doubted=self._doubted,
            )
        except RedisUnavailable as error:
            self._note_failure(str(error))
            raise RedisUnavailable(f"{self.endpoint} could not be reached: {error}") from error
        self._doubted = False
        return self._connection

    async def _drop(self, reason: str) -> None:
        self._note_failure(reason)
        await self.close()

    def _note_failure(self, reason: str) -> None:
        # The first of a row is news, the others are the same outage.
        level = logging.DEBUG if self._failures else logging.WARNING
        self._failures += 1
        _log.log(level, "the blocking connection to %s failed: %s", self.endpoint, reason)


async def _ask(connection: Connection, args: tuple[Arg, ...], within: float) -> Reply:
    """One call; raises `ReplyLost` when the connection does not answer it."""
    try:
        with anyio.fail_after(within):
            return await connection.ask(*args)
    except BROKEN as error:  # TimeoutError is one of them, being an OSError
        reason = f"no reply within {within:g} s" if type(error) is TimeoutError else describe(error)
        raise ReplyLost(f"sent, but its reply never came: {reason}") from error


@asynccontextmanager
async def open_blocking_link(
    endpoint: Endpoint | Connector,
    *,
    name: str | None = None,
    options: LinkOptions | None = None,
) -> AsyncIterator[BlockingLink]:
    """Open a link for blocking calls for the length of the context; its first call connects.

    `name` is what CLIENT LIST shows, set anew on each connect.
    """
    connector = connector_to(endpoint) if isinstance(endpoint, Endpoint) else endpoint
    link = BlockingLink(connector, name=name, options=options or LinkOptions())
    try:
        yield link
    finally:
        await link.close()  # noqa: ASYNC102  # close() shields itself and waits for nothing

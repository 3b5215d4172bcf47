"""The server that others lead to: Sentinels to the primary, nodes of a Cluster to the slot's owner."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import ByteStream, SocketAttribute

from worker_core.errors import RedisUnavailable, ReplyError
from worker_core.redis.connection import BROKEN, connect, describe
from worker_core.redis.dialling import dial
from worker_core.redis.topology import DirectConnector, confirm_keys, confirm_role

if TYPE_CHECKING:
    from worker_core.redis.endpoint import Address, Endpoint
    from worker_core.redis.resp import Reply
    from worker_core.redis.searching import Question, Search, Searcher
    from worker_core.redis.topology import Ask

__all__ = ["GuidedConnector"]

_log = logging.getLogger(__name__)

_QUESTION_SECONDS = 1.0
"""What one Sentinel or node gets to connect, and again to answer; the next one may be there."""
_RECHECK_SECONDS = 10.0
"""How often a Sentinel is asked again beside listening to it: its word may be lost."""
_PAUSE_SECONDS = 1.0


class GuidedConnector:
    """Asks the guides at each connect; where the server may be replaced unheard, listens to them."""

    def __init__(self, endpoint: Endpoint, searcher: Searcher, *, prefix: str | None) -> None:
        self.endpoint = endpoint
        self.prefix = prefix
        self._searcher = searcher
        self._open: WeakKeyDictionary[ByteStream, Address] = WeakKeyDictionary()
        # Several links share a connector, and one of them watches for all.
        self._watching = anyio.Lock()

    async def dial(self) -> ByteStream:
        """Find the server and open the stream."""
        found = await _carry(self._searcher.search())
        try:
            stream = await dial(found)
        except (*BROKEN, RedisUnavailable) as error:
            raise RedisUnavailable(f"{found.address}: {describe(error)}") from error
        self._open[stream] = found.address
        return stream

    async def confirm(self, ask: Ask, *, doubted: bool) -> None:  # noqa: ARG002  # always in doubt
        """See that it is what it was said to be: who was asked may not know of a failover yet."""
        await confirm_role(ask)
        await confirm_keys(ask, self.prefix, guided=True)

    async def watch(self) -> None:
        """Listen for failovers: a primary that was replaced takes writes for seconds, to lose them.

        A node of a Cluster that was replaced says so itself, by MOVED.
        """
        async with self._watching:
            while (news := self._searcher.news()) is not None:
                try:
                    await self._listen(news)
                except (*BROKEN, RedisUnavailable, ReplyError) as error:
                    # The primary may serve on without Sentinels, so this is no outage.
                    _log.debug("no news from %s: %s", news.to.address, describe(error))
                await anyio.sleep(_PAUSE_SECONDS)

    async def _listen(self, news: Question) -> None:
        """Subscribe at one guide; look after each word of it, and now and then without one."""
        connection = await connect(DirectConnector(news.to), timeout=_QUESTION_SECONDS)
        try:
            with anyio.fail_after(_QUESTION_SECONDS):
                await connection.ask(*news.args)
            while True:
                await self._look()
                with anyio.move_on_after(_RECHECK_SECONDS):
                    await connection.receive()
        finally:
            await connection.close()  # noqa: ASYNC102  # close() shields itself and waits for nothing

    async def _look(self) -> None:
        """End the connections to any other server than the one that the guides name."""
        found = await _carry(self._searcher.search())
        others = [
            stream
            for stream, address in self._open.items()
            if address != found.address and _raw(stream).fileno() != -1
        ]
        if not others:
            return
        # One guide alone may be wrong: what it names has to agree.
        with anyio.fail_after(2 * _QUESTION_SECONDS):
            connection = await connect(DirectConnector(found), timeout=_QUESTION_SECONDS)
            try:
                await confirm_role(connection.ask)
            finally:
                await connection.close()  # noqa: ASYNC102  # close() shields itself and waits for nothing
        _log.warning("the primary is %s now", found.address)
        for stream in others:
            with suppress(OSError):  # it has ended already
                # Whoever reads from it sees its end.
                _raw(stream).shutdown(socket.SHUT_RDWR)


def _raw(stream: ByteStream) -> socket.socket:
    raw: socket.socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610  # anyio's, not Django's
    return raw


async def _carry(search: Search) -> Endpoint:
    """Ask a search's questions until it has found the server."""
    question = next(search)
    while True:
        try:
            try:
                reply = await _answer(question)
            except RedisUnavailable as error:
                question = search.throw(error)
            else:
                question = search.send(reply)
        except StopIteration as found:
            endpoint: Endpoint = found.value
            return endpoint


async def _answer(question: Question) -> Reply:
    connection = await connect(DirectConnector(question.to), timeout=_QUESTION_SECONDS)
    try:
        with anyio.fail_after(_QUESTION_SECONDS):
            return await connection.ask(*question.args)
    except (*BROKEN, ReplyError) as error:
        raise RedisUnavailable(describe(error)) from error
    finally:
        await connection.close()  # noqa: ASYNC102  # close() shields itself and waits for nothing

"""Which server a link talks to, and how it gets there: at once, by Sentinels, or in a Cluster.

The link itself knows none of them. It asks its connector anew at each connect, so a failover is
followed by losing the connection, whatever it was lost by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, assert_never

import anyio

from worker_core.errors import RedisUnavailable, ReplyError
from worker_core.redis.cluster import OwnerSearcher, probe_keys, read_probe, slot_or_refuse
from worker_core.redis.connection import BROKEN, connect, describe
from worker_core.redis.dialling import dial
from worker_core.redis.endpoint import ClusterNodes, Sentinels
from worker_core.redis.sentinel import PrimarySearcher, refuse_replica

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from anyio.abc import ByteStream

    from worker_core.redis.endpoint import Endpoint
    from worker_core.redis.resp import Arg, Reply
    from worker_core.redis.searching import Question, Search, Searcher

__all__ = ["Ask", "Connector", "DirectConnector", "GuidedConnector", "connector_to", "searcher_of"]

_QUESTION_SECONDS = 1.0
"""What one Sentinel or node gets to connect, and again to answer; the next one may be there."""


class Ask(Protocol):
    """One call on a connection that nobody else uses yet; an error reply is raised."""

    def __call__(self, *args: Arg) -> Awaitable[Reply]:
        """Send the call and wait for its reply."""


class Connector(Protocol):
    """Finds the server and opens a stream to it; asked anew at each connect."""

    @property
    def endpoint(self) -> Endpoint:
        """The credentials and the database, and what messages call the server."""

    @property
    def prefix(self) -> str | None:
        """What the names of all keys begin with; `None` where that is not known."""

    async def dial(self) -> ByteStream:
        """Open a stream; raises `OSError` or `RedisUnavailable`. The caller bounds the time."""

    async def confirm(self, ask: Ask, *, doubted: bool) -> None:
        """Raise `RedisUnavailable` unless this is the right server; called once signed in.

        `doubted`: the last connection ended because its server refused to serve.
        """


class DirectConnector:
    """One server at a fixed address, over TCP or a Unix socket, with TLS or without."""

    def __init__(self, endpoint: Endpoint, *, prefix: str | None = None) -> None:
        self.endpoint = endpoint
        self.prefix = prefix

    async def dial(self) -> ByteStream:
        """Open the stream."""
        return await dial(self.endpoint)

    async def confirm(self, ask: Ask, *, doubted: bool) -> None:
        """See that it serves our keys; after a refusal, wait until it is a primary again."""
        # Not asked otherwise: a restricted user may not call ROLE, and each refusal is logged.
        if doubted:
            await _confirm_role(ask)
        await _confirm_keys(ask, self.prefix, guided=False)


class GuidedConnector:
    """The server that others lead to: Sentinels to the primary, nodes of a Cluster to the owner."""

    def __init__(self, endpoint: Endpoint, searcher: Searcher, *, prefix: str | None) -> None:
        self.endpoint = endpoint
        self.prefix = prefix
        self._searcher = searcher

    async def dial(self) -> ByteStream:
        """Find the server and open the stream."""
        found = await _carry(self._searcher.search())
        try:
            return await dial(found)
        except (*BROKEN, RedisUnavailable) as error:
            raise RedisUnavailable(f"{found.address}: {describe(error)}") from error

    async def confirm(self, ask: Ask, *, doubted: bool) -> None:  # noqa: ARG002  # always in doubt
        """See that it is what it was said to be: who was asked may not know of a failover yet."""
        await _confirm_role(ask)
        await _confirm_keys(ask, self.prefix, guided=True)


def searcher_of(
    endpoint: Endpoint, *, prefix: str | None, name: str = "queue.prefix"
) -> Searcher | None:
    """Return how the server of an endpoint is found; `None`: there is nothing to find.

    Raises `ConfigError` for a Cluster and a `prefix` without a hash tag, which is called `name`.
    """
    match endpoint.guides:
        case None:
            return None
        case Sentinels() as sentinels:
            return PrimarySearcher(endpoint, sentinels)
        case ClusterNodes() as nodes:
            return OwnerSearcher(endpoint, nodes, slot_or_refuse(prefix, name=name))
        case never:
            assert_never(never)


def connector_to(
    endpoint: Endpoint, *, prefix: str | None = None, name: str = "queue.prefix"
) -> Connector:
    """Return the connector for an endpoint and for keys that begin with `prefix`.

    Raises `ConfigError` for files for TLS that cannot be used, and as `searcher_of` does.
    """
    if endpoint.tls is not None:
        endpoint.tls.context()
    searcher = searcher_of(endpoint, prefix=prefix, name=name)
    if searcher is None:
        return DirectConnector(endpoint, prefix=prefix)
    return GuidedConnector(endpoint, searcher, prefix=prefix)


async def _confirm_role(ask: Ask) -> None:
    try:
        role = await ask("ROLE")
    except ReplyError as error:
        # A restricted user is not told; READONLY will tell.
        if error.code != "NOPERM":
            raise
        return
    refuse_replica(role)


async def _confirm_keys(ask: Ask, prefix: str | None, *, guided: bool) -> None:
    if prefix is None:
        return
    try:
        await ask(*probe_keys(prefix))
    except ReplyError as error:
        read_probe(error, prefix, guided=guided)


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

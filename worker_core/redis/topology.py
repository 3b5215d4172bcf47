"""Which server a link talks to, and how it gets there.

The seam for everything beyond one plain server. The link itself knows nothing of it: it asks its
connector anew at each connect, so a failover is followed by losing the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from worker_core.errors import ReplyError
from worker_core.redis.cluster import probe_keys, read_probe
from worker_core.redis.dialling import dial
from worker_core.redis.sentinel import refuse_replica

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from anyio.abc import ByteStream

    from worker_core.redis.endpoint import Endpoint
    from worker_core.redis.resp import Arg, Reply

__all__ = ["Ask", "Connector", "DirectConnector", "confirm_keys", "confirm_role"]


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

    async def watch(self) -> None:
        """End connections to a server that is the right one no longer and does not say so.

        Runs beside a link until cancelled, or returns where there is nothing to watch.
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
            await confirm_role(ask)
        await confirm_keys(ask, self.prefix, guided=False)

    async def watch(self) -> None:
        """Return: there is no other server."""


async def confirm_role(ask: Ask) -> None:
    """Raise `RedisUnavailable` where the server is a replica."""
    try:
        role = await ask("ROLE")
    except ReplyError:
        return  # a restricted user is not told; READONLY will tell
    refuse_replica(role)


async def confirm_keys(ask: Ask, prefix: str | None, *, guided: bool) -> None:
    """Raise `WrongServer` where the server will never serve the keys of a prefix."""
    if prefix is None:
        return
    try:
        await ask(*probe_keys(prefix))
    except ReplyError as error:
        read_probe(error, prefix, guided=guided)

"""One connection, from dialling to its end: sign in, load the scripts, exchange bytes."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

import anyio
import attrs
import hiredis
from anyio.abc import SocketAttribute

from worker_core.errors import RedisUnavailable, ReplyError
from worker_core.redis.cluster import REDIRECTIONS, WrongServer, parser_for, prefix_slot
from worker_core.redis.endpoint import Address
from worker_core.redis.resp import Arg, Reply, pack
from worker_core.redis.tls import WANTS_CERTIFICATE, describe_tls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyio.abc import ByteStream

    from worker_core.redis.endpoint import Endpoint
    from worker_core.redis.script import Script
    from worker_core.redis.topology import Connector

_log = logging.getLogger(__name__)

__all__ = ["BROKEN", "REFUSALS", "Connection", "connect", "describe"]

BROKEN = (
    OSError,
    EOFError,
    anyio.BrokenResourceError,
    # A TLS stream may have to send from within a read (a change of keys) while a send goes on.
    anyio.BusyResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    hiredis.ProtocolError,
)
"""What a stream or the parser raises when the connection is of no more use."""

REFUSALS = REDIRECTIONS | {"READONLY", "LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"}
"""Error codes of a server that does not serve us right now; the call that got one was not executed.

Each is decided before a command changes anything. In a script the first writing command
raises it, and roles do not change while a script runs, so such a script has written nothing.
ASK is not followed, as a slot that is on its way from one node to another has its keys on both:
the call waits until it has arrived.
"""

_CREDENTIALS = frozenset({"WRONGPASS", "NOAUTH"})
_READ_BYTES = 65536


def describe(error: BaseException) -> str:
    """Why a connection ended, in words; anyio's errors say the most in their causes."""
    if isinstance(error, RedisUnavailable):
        return str(error)  # in our own words already
    if isinstance(error, anyio.EndOfStream):
        return "the server closed the connection"
    if isinstance(error, ssl.SSLError):
        return describe_tls(error)
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer within the time given"
    match error.__cause__:
        case ssl.SSLError() as cause:
            return describe_tls(cause)
        case OSError() as cause:
            return str(cause)
        case ExceptionGroup() as attempts:  # one for each address of the host
            return "; ".join(str(attempt) for attempt in attempts.exceptions)
        case _:
            return str(error) or type(error).__name__


@attrs.define(eq=False)
class Connection:
    """A stream with a parser; to be read and written by one task each."""

    stream: ByteStream
    parser: hiredis.Reader = attrs.field(factory=lambda: parser_for(None))

    async def ask(self, *args: Arg) -> Reply:
        """One call and its reply, with nothing else in flight; an error reply is raised."""
        [reply] = await self.exchange([pack(*args)])
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    async def exchange(self, calls: list[bytes]) -> list[Reply]:
        """Send the calls at once and wait for all their replies."""
        await self.stream.send(b"".join(calls))
        return [await self.receive() for _ in calls]

    async def receive(self) -> Reply:
        """Wait for what the server says next."""
        while True:
            reply: Reply | bool = self.parser.gets()
            # RESP2 has no booleans: False is the parser's word for "not all of it has come".
            if not isinstance(reply, bool):
                return reply
            self.parser.feed(await self.stream.receive(_READ_BYTES))

    async def close(self) -> None:
        """Close the socket now, even when cancelled; nothing is waited for."""
        with anyio.CancelScope(shield=True):
            # Bounded: aclose_forcefully runs in a cancelled scope of its own.
            await anyio.aclose_forcefully(self.stream)


@attrs.frozen
class _Step:
    """One call of the handshake; `optional`: a user without the right to it is let through."""

    call: bytes
    optional: str | None = None


async def connect(
    connector: Connector,
    *,
    timeout: float,
    name: str | None = None,
    scripts: Iterable[Script] = (),
    doubted: bool = False,
) -> Connection:
    """A connection that is signed in, named and has the scripts, within `timeout` seconds.

    Raises `RedisUnavailable` that says what failed; the address is the caller's to add, but for
    that of a server which was found by asking others.
    """
    dialled: ByteStream | None = None
    try:
        with anyio.fail_after(timeout):
            dialled = await connector.dial()
            slot = None if connector.prefix is None else prefix_slot(connector.prefix)
            connection = Connection(dialled, parser_for(slot))
            try:
                await _handshake(connection, _steps(connector.endpoint, name, scripts))
                await connector.confirm(connection.ask, doubted=doubted)
            except BaseException:
                await connection.close()  # noqa: ASYNC102  # close() shields itself and waits for nothing
                raise
            return connection
    except WrongServer:
        raise
    except (*BROKEN, ReplyError, RedisUnavailable) as error:
        reason = describe(error) + _tls_hint(error, connector.endpoint, dialled)
        if dialled is not None and connector.endpoint.guides is not None:
            reason = f"{_peer(dialled)}: {reason}"
        raise RedisUnavailable(reason) from (error.__cause__ or error)


def _tls_hint(error: Exception, endpoint: Endpoint, dialled: ByteStream | None) -> str:
    """What may be wrong where one side speaks TLS and the other does not, or not the same."""
    hung_up = isinstance(
        error, anyio.EndOfStream | anyio.BrokenResourceError | ConnectionResetError
    )
    if endpoint.path is not None:
        return ""
    if endpoint.tls is None:
        # A TLS server says so in a form of its own, or hangs up.
        foreign = hung_up or isinstance(error, hiredis.ProtocolError)
        return "; if the server speaks TLS, begin the URL with rediss" if foreign else ""
    if dialled is None:
        # A plain server takes what we say for a line and waits for its end.
        silent = isinstance(error, TimeoutError)
        return "; if the server does not speak TLS, begin the URL with redis" if silent else ""
    # In TLS 1.3 our side of the handshake is over before the server has looked at our certificate.
    unknown = hung_up and endpoint.tls.cert is None
    return f"; {WANTS_CERTIFICATE}" if unknown else ""


def _peer(stream: ByteStream) -> str:
    match stream.extra(SocketAttribute.remote_address, None):  # noqa: S610  # anyio's, not Django's
        case (str(host), int(port), *_):
            return str(Address(host, port))
        case _:
            return "the server"


def _steps(endpoint: Endpoint, name: str | None, scripts: Iterable[Script]) -> list[_Step]:
    steps: list[_Step] = []
    if endpoint.username is not None:
        # A user declared `nopass` takes any password.
        steps.append(_Step(pack("AUTH", endpoint.username, endpoint.password or "")))
    elif endpoint.password is not None:
        steps.append(_Step(pack("AUTH", endpoint.password)))
    if endpoint.db:
        steps.append(_Step(pack("SELECT", endpoint.db)))
    if name is not None:
        steps.append(_Step(pack("CLIENT", "SETNAME", name), optional="CLIENT SETNAME"))
    steps.extend(_Step(pack("SCRIPT", "LOAD", script.source)) for script in scripts)
    # Last, and always: a server that loads its data or lost its primary accepts all of the
    # above and refuses this.
    steps.append(_Step(pack("PING"), optional="PING"))
    return steps


async def _handshake(connection: Connection, steps: list[_Step]) -> None:
    replies = await connection.exchange([step.call for step in steps])
    for step, reply in zip(steps, replies, strict=True):
        if not isinstance(reply, ReplyError):
            continue
        if reply.code == "NOPERM" and step.optional is not None:
            _log.info("the Redis user may not call %s; going on without", step.optional)
        elif reply.code in _CREDENTIALS:
            raise RedisUnavailable(f"{reply} (check the URL's user and password)") from reply
        else:
            raise reply

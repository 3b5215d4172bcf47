"""redis-py's connections to the server of an endpoint, which is found by asking where need be."""

from __future__ import annotations

import math
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from worker_core.errors import ConfigError, RedisUnavailable, ReplyError
from worker_core.redis.cluster import probe_keys, read_probe
from worker_core.redis.connecting import searcher_of
from worker_core.redis.sentinel import refuse_replica
from worker_core.redis.tls import WANTS_CERTIFICATE, describe_tls

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from worker_core.redis import Arg, Endpoint, Reply, TLSFiles
    from worker_core.redis.searching import Question, Search

__all__ = ["Lease", "PlainPool"]

_CONNECT_SECONDS = 5.0
_QUESTION_SECONDS = 1.0
"""What one Sentinel or node gets to connect and to answer; the next one may be there."""

_TRUST_SECONDS = 1.0
"""How long a primary is taken for the primary without asking again."""
_RETRY_SECONDS = 10.0
"""The same where no Sentinel answers, which takes its time."""

# The types of redis-py leave its connections' methods open.
Connection: TypeAlias = Any
Lease: TypeAlias = tuple[Any, Connection]
"""A connection, behind the pool that it is of."""


class PlainPool:
    """Connections to one server, for any thread; after `forget` the server is found anew."""

    def __init__(self, endpoint: Endpoint, *, prefix: str | None, reply_timeout: float) -> None:
        # Only here: redis-py costs a worker 20 MB that it has no use for.
        import redis  # noqa: PLC0415

        self._redis = redis
        self._endpoint = endpoint
        self._prefix = prefix
        self._reply_timeout = reply_timeout
        self._searcher = searcher_of(endpoint, prefix=prefix, name="prefix")
        self._replaced_unheard = self._searcher is not None and self._searcher.news() is not None
        if endpoint.tls is not None:
            endpoint.tls.context()
        self._opening = threading.Lock()
        self._pool: Any = None
        self._server: Endpoint | None = None
        self._trusted_until = math.inf

    def take(self) -> Lease:
        """Return a connection that is there; raises `RedisUnavailable`."""
        with self._opening:
            if self._pool is not None and time.monotonic() >= self._trusted_until:
                self._look()
            if self._pool is None:
                self._pool = self._open()
            pool = self._pool
        with self._words_for_failures(self._endpoint):
            return pool, pool.get_connection()

    def give_back(self, lease: Lease) -> None:
        """Keep a connection for the next call."""
        pool, connection = lease
        if pool is not self._pool:
            connection.disconnect()
        pool.release(connection)

    def forget(self, lease: Lease) -> None:
        """Find the server anew before the next call, as this connection was of no use."""
        pool, connection = lease
        connection.disconnect()
        with self._opening:
            if self._pool is pool:
                self._pool = None
        # Other threads' calls go on, and end by themselves where the server is gone.
        pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close every connection."""
        with self._opening:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.disconnect()

    def _look(self) -> None:
        """Leave a primary that was replaced: it takes writes for seconds, to lose them."""
        try:
            found = self._find()
        except RedisUnavailable:
            # It may serve on without Sentinels.
            self._trusted_until = time.monotonic() + _RETRY_SECONDS
            return
        if found != self._server:
            self._pool.disconnect(inuse_connections=False)
            self._pool = None

    def _find(self) -> Endpoint:
        """Ask where the server is."""
        if self._searcher is None:
            return self._endpoint
        found = self._carry(self._searcher.search())
        if self._replaced_unheard:
            self._trusted_until = time.monotonic() + _TRUST_SECONDS
        return found

    def _open(self) -> Any:
        """Find the server and see that it is the right one."""
        found = self._server = self._find()
        pool = self._redis.ConnectionPool(**self._options(found, self._reply_timeout))
        try:
            with self._words_for_failures(found):
                connection = pool.get_connection()
                try:
                    self._confirm(connection)
                finally:
                    pool.release(connection)
        except BaseException:
            pool.disconnect()
            raise
        return pool

    def _confirm(self, connection: Connection) -> None:
        guided = self._searcher is not None
        if guided:
            with suppress(ReplyError):  # a restricted user is not told; READONLY will tell
                refuse_replica(self._ask(connection, "ROLE"))
        if self._prefix is not None:
            try:
                self._ask(connection, *probe_keys(self._prefix))
            except ReplyError as error:
                read_probe(error, self._prefix, guided=guided)

    def _ask(self, connection: Connection, *args: Arg) -> Reply:
        try:
            connection.send_command(*args)
            reply: Reply = connection.read_response()
        except self._redis.ResponseError as error:
            raise reply_error(error) from None
        return reply

    def _carry(self, search: Search) -> Endpoint:
        """Ask a search's questions until it has found the server."""
        question = next(search)
        while True:
            try:
                try:
                    reply = self._answer(question)
                except RedisUnavailable as error:
                    question = search.throw(error)
                else:
                    question = search.send(reply)
            except StopIteration as found:
                endpoint: Endpoint = found.value
                return endpoint

    def _answer(self, question: Question) -> Reply:
        options = self._options(question.to, _QUESTION_SECONDS)
        make = options.pop("connection_class")
        connection = make(**options)
        try:
            with self._words_for_failures(question.to):
                connection.connect()
                return self._ask(connection, *question.args)
        finally:
            connection.disconnect()

    def _options(self, endpoint: Endpoint, timeout: float) -> dict[str, Any]:
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        options: dict[str, Any] = {
            "db": endpoint.db,
            "username": endpoint.username,
            "password": endpoint.password,
            "socket_timeout": timeout,
            "socket_connect_timeout": min(timeout, _CONNECT_SECONDS),
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
        }
        if endpoint.path is not None:
            make = self._redis.UnixDomainSocketConnection
            return options | {"path": endpoint.path, "connection_class": make}
        options |= {"host": endpoint.host, "port": endpoint.port, "socket_keepalive": True}
        if endpoint.tls is None:
            return options | {"connection_class": self._redis.Connection}
        make = _tls_connection(endpoint.tls)
        return options | {"connection_class": make, "ssl_check_hostname": True}

    @contextmanager
    def _words_for_failures(self, server: Endpoint) -> Iterator[None]:
        """Raise `RedisUnavailable` for whatever goes wrong on the way to a server."""
        exceptions = self._redis.exceptions
        try:
            yield
        except exceptions.AuthenticationError as error:
            reason = f"{error} (check the user and the password)"
            cause = ReplyError(f"WRONGPASS {error}")
            raise RedisUnavailable(f"{server} could not be reached: {reason}") from cause
        except ReplyError as error:
            raise RedisUnavailable(f"{server} cannot be used: {error}") from error
        except (exceptions.RedisError, OSError) as error:
            reason = f"{error}{_hint(error, server, exceptions)}"
            raise RedisUnavailable(f"{server} could not be reached: {reason}") from None


def reply_error(error: Exception) -> ReplyError:
    """Return a server's error as it was: redis-py takes the code away where it has a class for it."""
    from redis import exceptions  # noqa: PLC0415

    match error:
        case exceptions.NoScriptError():
            code = "NOSCRIPT "
        case exceptions.NoPermissionError():
            code = "NOPERM "
        case exceptions.ClusterCrossSlotError():
            code = "CROSSSLOT "
        case exceptions.MovedError():
            code = "MOVED "
        case exceptions.AskError():
            code = "ASK "
        case _:
            code = ""
    return ReplyError(f"{code}{error}")


def _tls_connection(files: TLSFiles) -> type[Connection]:
    import redis  # noqa: PLC0415

    # Should redis-py no longer call this, its own context is the stricter one where no `tls_ca` is
    # given and refuses the server where one is; nothing goes unencrypted.
    class TLSConnection(redis.SSLConnection):
        """Trusts whom the worker's own link does."""

        def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
            try:
                return files.context().wrap_socket(sock, server_hostname=self.host)
            # As an OSError, for which redis-py closes the socket.
            except ConfigError as error:
                raise OSError(str(error)) from error
            except ssl.SSLError as error:
                raise OSError(describe_tls(error)) from error

    return TLSConnection


def _hint(error: Exception, server: Endpoint, exceptions: Any) -> str:
    """What may be wrong where one side speaks TLS and the other does not, or not the same."""
    if server.path is not None:
        return ""
    hung_up = any(sign in str(error).lower() for sign in ("closed", "reset by peer", "broken pipe"))
    if server.tls is None:
        foreign = hung_up or isinstance(error, exceptions.InvalidResponse)
        return "; if the server speaks TLS, begin the URL with rediss" if foreign else ""
    if isinstance(error, exceptions.TimeoutError):
        return "; if the server does not speak TLS, begin the URL with redis"
    return f"; {WANTS_CERTIFICATE}" if hung_up and server.tls.cert is None else ""

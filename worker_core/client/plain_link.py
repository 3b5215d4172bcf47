"""One call at a time over redis-py's connections, with the errors of the worker's own link.

Not `redis.Redis`: that one sends a call again by itself when the connection breaks, so that a job
would be added twice, and gives every command's reply a shape of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from worker_core._bullmq.calls import ScriptCall
from worker_core.errors import RedisUnavailable, ReplyError, ReplyLost

if TYPE_CHECKING:
    from worker_core.client.flows import Step
    from worker_core.redis import Endpoint

__all__ = ["PlainLink"]

_CONNECT_SECONDS = 5.0


class PlainLink:
    """Calls to one server, from any thread; connects when called."""

    def __init__(self, endpoint: Endpoint, *, reply_timeout: float) -> None:
        # Only here: redis-py costs a worker 20 MB that it has no use for.
        import redis  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        self._errors = redis.exceptions
        self._endpoint = endpoint
        options: dict[str, Any] = {
            "db": endpoint.db,
            "username": endpoint.username,
            "password": endpoint.password,
            "socket_timeout": reply_timeout,
            "socket_connect_timeout": _CONNECT_SECONDS,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
        }
        if endpoint.path is None:
            options |= {"host": endpoint.host, "port": endpoint.port, "socket_keepalive": True}
        else:
            connection_class = redis.UnixDomainSocketConnection
            options |= {"path": endpoint.path, "connection_class": connection_class}
        self._pool = redis.ConnectionPool(**options)

    def close(self) -> None:
        """Close every connection."""
        self._pool.disconnect()

    def carry(self, step: Step) -> object:
        """Make one call and return its reply, text as bytes.

        Raises `ReplyError` (the server refused it), `ReplyLost` (sent, unknown whether executed)
        or `RedisUnavailable` (not executed).
        """
        if not isinstance(step, ScriptCall):
            return self._call(*step.args)
        tail = (len(step.keys), *step.keys, *step.args)
        try:
            return self._call("EVALSHA", step.script.sha1, *tail)
        except ReplyError as error:
            if error.code != "NOSCRIPT":
                raise
        return self._call("EVAL", step.script.source, *tail)

    def _call(self, *args: str | bytes | float) -> object:
        connection = self._connect()
        try:
            connection.send_command(*args)
            return connection.read_response()
        except self._errors.NoScriptError as error:
            raise ReplyError(f"NOSCRIPT {error}") from None
        except (self._errors.ReadOnlyError, self._errors.BusyLoadingError) as error:
            # Decided before anything was executed, and another server may be the right one now.
            connection.disconnect()
            raise RedisUnavailable(f"{self._endpoint} refuses to serve: {error}") from None
        except self._errors.ResponseError as error:
            raise ReplyError(str(error)) from None
        except (self._errors.ConnectionError, self._errors.TimeoutError) as error:
            # redis-py has closed the connection.
            raise ReplyLost(f"sent, but its reply never came: {error}") from None
        except BaseException:
            # Ctrl-C between a call and its reply: the next call must not be given this one's.
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)

    def _connect(self) -> Any:
        try:
            # The types of redis-py leave its connections' methods open.
            return cast("Any", self._pool.get_connection())
        except (self._errors.RedisError, OSError) as error:
            raise RedisUnavailable(f"{self._endpoint} could not be reached: {error}") from None

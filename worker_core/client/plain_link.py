"""One call at a time over redis-py's connections, with the errors of the worker's own link.

Not `redis.Redis`: that one sends a call again by itself when the connection breaks, so that a job
would be added twice, and gives every command's reply a shape of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_core._bullmq.calls import ScriptCall
from worker_core.client.plain_pool import PlainPool, reply_error
from worker_core.errors import RedisUnavailable, ReplyError, ReplyLost

if TYPE_CHECKING:
    from worker_core.client.flows import Step
    from worker_core.redis import Endpoint

__all__ = ["PlainLink"]


class PlainLink:
    """Calls to the server of an endpoint, from any thread; connects when called.

    `prefix` is what the names of all keys begin with; `None` where that is not known.
    """

    def __init__(
        self, endpoint: Endpoint, *, reply_timeout: float, prefix: str | None = None
    ) -> None:
        from redis import exceptions  # noqa: PLC0415  # not for a worker

        self._errors = exceptions
        self._refusals = (
            *(exceptions.ReadOnlyError, exceptions.BusyLoadingError, exceptions.ClusterDownError),
            *(exceptions.AskError, exceptions.TryAgainError),
        )
        self._endpoint = endpoint
        self._pool = PlainPool(endpoint, prefix=prefix, reply_timeout=reply_timeout)

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

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
        lease = self._pool.take()
        _, connection = lease
        try:
            connection.send_command(*args)
            return connection.read_response()
        except self._refusals as error:
            # Decided before anything was executed, and another server may be the right one now.
            self._pool.forget(lease)
            raise RedisUnavailable(
                f"{self._endpoint} refuses to serve: {reply_error(error)}"
            ) from None
        except self._errors.ResponseError as error:
            raise reply_error(error) from None
        except (self._errors.ConnectionError, self._errors.TimeoutError) as error:
            self._pool.forget(lease)
            raise ReplyLost(f"sent, but its reply never came: {error}") from None
        except BaseException:
            # Ctrl-C between a call and its reply: the next call must not be given this one's.
            connection.disconnect()
            raise
        finally:
            self._pool.give_back(lease)

"""What a job puts out while it runs, as a stream that readers follow: `<job>:tokens`.

Each entry is JSON under `data`, with its index in the run:

    begin   a run of the job begins, or a fallback answers anew within one: what stands before it
            does not count any more
    chunk   a piece of the answer
    stop    the run ends without an answer, and the job will run again
    end     the job has ended; nothing follows

Whoever writes must hold the job's lock. A worker that dies leaves a stream without an end, which
the next run's `begin` tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from worker_core._bullmq.streams import Place, last_entry
from worker_core._runtime.grouping import Group, Grouping
from worker_core.job import Outcome
from worker_core.strict_json import Unpublishable, dumps

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from worker_core._bullmq.job import StoredJob
    from worker_core._bullmq.queue import Queue
    from worker_core._runtime.pump import Pump
    from worker_core.engine import ChatChunk

__all__ = ["TokenStream", "end_of_run"]

_log = structlog.get_logger("worker_core.tokens")

_RUNS_AGAIN = frozenset(
    {
        Outcome.RETRIED,
        Outcome.DELAYED,
        Outcome.WAITING_CHILDREN,
        Outcome.RATE_LIMITED,
        Outcome.RETURNED,
    }
)


class TokenStream:
    """The stream of one run: begun when made, ended by `end` before the job's outcome is written.

    Entries are posted, so that they cost the job nothing and keep their order with its outcome.
    """

    def __init__(
        self,
        *,
        queue: Queue,
        pump: Pump,
        stored: StoredJob,
        token: str,
        ttl: timedelta,
        is_sure: Callable[[], bool],
    ) -> None:
        self._queue = queue
        self._pump = pump
        self._job_id = stored.id
        self._token = token
        self._ttl = ttl
        self._is_sure = is_sure
        self._grouping = Grouping()
        self._index = 0
        self._closed = False
        self._ended: tuple[Outcome, bytes | None] | None = None
        self._end = b""
        self._attempt = stored.attempts_made + 1
        self._begin(Place.FRESH if stored.attempts_started <= 1 else Place.APPEND)

    def add(self, piece: ChatChunk) -> None:
        """Send a piece, now or soon."""
        if self._closed:
            return
        if piece.restart:
            self._grouping.clear()
            self._begin(Place.APPEND)
        if not (piece.content or piece.thinking or piece.tool_calls):
            return
        if self._grouping.add(piece, anyio.current_time()):
            self.flush()
        else:
            self._pump.remember(self)

    @property
    def due_at(self) -> float:
        """When what waits may be sent, by the loop's clock."""
        return self._grouping.due_at

    def flush(self) -> None:
        """Send what waits."""
        now = anyio.current_time()
        if self._queue.link.is_connected and self._is_sure():
            self._write(self._grouping.take(now))
            return
        # In an outage the pieces stay here, as one entry: a call for each would fill the link.
        self._grouping.put_off(now)
        self._pump.remember(self)

    def close(self) -> None:
        """Take no more pieces: the run is over, and its outcome follows."""
        self._closed = True
        self._pump.forget(self)

    def end(self, outcome: Outcome, reason: bytes | None) -> None:
        """Send what waits, and how the run ended; to be told again where that may be lost."""
        self.close()
        self._write(self._grouping.take(anyio.current_time(), last=True))
        if (outcome, reason) != self._ended:
            self._ended = outcome, reason
            self._end = end_of_run(self._index, outcome, reason)
            self._index += 1
        self._send(self._end, Place.ONCE)

    def _begin(self, place: Place) -> None:
        # The index goes on where the run begins anew, so that a reader sees what it has missed.
        begin = {"event": "begin", "index": self._index, "attempt": self._attempt}
        self._post(dumps(begin), place)

    def _write(self, group: Group | None) -> None:
        if group is None:
            return
        entry: dict[str, object] = {
            "event": "chunk",
            "index": self._index,
            "content": group.content,
        }
        if group.thinking:
            entry["thinking"] = group.thinking
        try:
            data = dumps({**entry, "tool_calls": group.tool_calls} if group.tool_calls else entry)
        except Unpublishable as error:
            _log.warning("a tool call is not JSON", job_id=self._job_id, reason=str(error))
            data = dumps(entry)
        self._post(data, Place.APPEND)

    def _post(self, data: bytes, place: Place) -> None:
        self._index += 1
        self._send(data, place)

    def _send(self, data: bytes, place: Place) -> None:
        self._queue.post_entry(self._job_id, self._token, data, place=place, ttl=self._ttl)


def end_of_run(index: int, outcome: Outcome, reason: bytes | None) -> bytes:
    """Return the last entry of a run."""
    return last_entry(index, outcome.value, reason, runs_again=outcome in _RUNS_AGAIN)

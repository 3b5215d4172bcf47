"""Dead letters: a job that failed for good is also put on `<queue>-dead`, exactly once.

Two writes that may be parted by the death of the worker, and the second only where the first was
accepted. A transaction around both is not enough: it would add the letter also where the finish is
refused, for a script that refuses has not failed. Nor is one script that does both: the one that
finishes a job fetches the next at its end, may stumble there, and what it did before stays done.

So the letter is kept in an outbox first. Then the finish; when it is accepted, one script moves the
letter to its queue and out of the outbox; when it is refused, the entry is dropped. What is left
there when a worker dies is decided by the job itself, which tells whether that very finish was
accepted (`decide`): by any worker, at its start and in every interval, and before another outcome
of the same job is written. Each step may be made twice.
"""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING

import anyio
import orjson
import structlog

from worker_core._bullmq.outbox import OutboxEntry
from worker_core.dead_letters import read_attempts
from worker_core.errors import InvalidRequest, RedisError, ReplyError
from worker_core.strict_json import loads

if TYPE_CHECKING:
    from datetime import timedelta

    from worker_core._bullmq.calls import Finish
    from worker_core._bullmq.job import StoredJob
    from worker_core._bullmq.outbox import Outbox, Standing
    from worker_core.dead_letters import ErrorClass

__all__ = ["DeadLetters", "Decision", "decide"]

_log = structlog.get_logger("worker_core.dead_letters")

_RETRY_SECONDS = 1.0
_LONGEST_REVIEW_SECONDS = 30.0
_FLUSH_SECONDS = 2.0
"""How long the end of the worker may wait for letters on their way; what is left stays in the outbox."""
_AT_ONCE = 100
"""Letters delivered side by side."""
_MOST_DUE = 10_000
"""Letters remembered while none can be delivered; the review finds the others."""


class Decision(enum.Enum):
    """What an entry in the outbox means."""

    DELIVER = "deliver"
    """The finish was accepted."""
    DROP = "drop"
    """It was refused, or never made and would be refused now."""
    WAIT = "wait"
    """It may still come: the lock that it needs is there."""


def decide(entry: OutboxEntry, standing: Standing) -> Decision:
    """Say what became of the finish of an entry; `DELIVER` and `DROP` stay true for ever."""
    if standing.created_ms != entry.created_ms:
        # Gone, and maybe its id given to another. Removed as it failed, most likely: a job that
        # another worker has run since then has been decided about before that one's outcome.
        return Decision.DELIVER
    if standing.is_failed and standing.finished_on_ms == entry.at_ms:
        return Decision.DELIVER
    # Somebody may have retried it already, and it may even be the same slot's again. The history
    # was written by the finish itself.
    if any(
        (one.at_ms, one.worker) == (entry.at_ms, entry.worker)
        for one in read_attempts(standing.history)
    ):
        return Decision.DELIVER
    return Decision.WAIT if standing.lock == entry.token else Decision.DROP


class DeadLetters:
    """The dead letters of one queue, and that each gets there."""

    def __init__(self, outbox: Outbox, *, queue: str, worker: str, interval: timedelta) -> None:
        self._outbox = outbox
        self._queue = queue
        self._worker = worker
        self._interval = interval.total_seconds()
        self._due: dict[OutboxEntry, None] = {}
        """Those whose finish was accepted, oldest first."""
        self._woken = anyio.Event()

    async def promise(
        self, job: StoredJob, token: str, ending: Finish, error_class: ErrorClass
    ) -> OutboxEntry:
        """Keep the letter of a job before it is failed for good; may be called again."""
        entry = OutboxEntry(
            job_id=job.id,
            name=job.name,
            created_ms=job.timestamp_ms,
            token=token,
            worker=self._worker,
            at_ms=ending.at_ms,
        )
        await self._outbox.put(entry, _write(job, self._queue, entry, ending, error_class))
        return entry

    def settled(self, entry: OutboxEntry, *, accepted: bool) -> None:
        """Learn whether a job has failed for good: deliver its letter soon, or drop it."""
        if not accepted:
            self._outbox.post_drop(entry)
        elif len(self._due) < _MOST_DUE:
            # Not here: the finish has brought the slot its next job, whose lock nobody renews yet.
            self._due[entry] = None
            self._woken.set()

    async def review_job(self, job_id: str) -> None:
        """Decide about what an earlier run of a job has left, before an outcome of this one is written.

        Otherwise a job that is removed as it ends would look as if the earlier run had failed it.
        """
        for entry in await self._outbox.entries():
            if entry.job_id == job_id:
                # The earlier run may have been the same slot's: its lock is this one's.
                await self._settle(entry, may_come=False)

    async def run(self) -> None:
        """Deliver letters, and decide about those that others have left; until cancelled."""
        review_at = anyio.current_time()
        try:
            while True:
                missed = not await self._deliver_due()
                if anyio.current_time() >= review_at:
                    if await self._review():
                        review_at = anyio.current_time() + self._interval
                    else:
                        missed = True
                if missed:
                    await anyio.sleep(min(self._interval, _RETRY_SECONDS))
                    continue
                with anyio.move_on_at(review_at):
                    await self._woken.wait()
                self._woken = anyio.Event()
        finally:
            with anyio.move_on_after(_FLUSH_SECONDS, shield=True):
                await self._deliver_due()

    async def _deliver_due(self) -> bool:
        """Deliver what is due, and tell whether all of it got there."""
        while self._due:
            some = list(self._due)[:_AT_ONCE]
            async with anyio.create_task_group() as together:
                for entry in some:
                    together.start_soon(self._deliver, entry)
            if any(entry in self._due for entry in some):
                return False
        return True

    async def _deliver(self, entry: OutboxEntry) -> None:
        try:
            await self._outbox.deliver(entry)
        except RedisError as error:
            reason = str(error)
            _log.warning(
                "a dead letter is late", queue=self._queue, job_id=entry.job_id, reason=reason
            )
        else:
            self._due.pop(entry, None)

    async def _review(self) -> bool:
        """Decide about all that the outbox holds, and tell whether the queue answered."""
        try:
            with anyio.fail_after(_LONGEST_REVIEW_SECONDS):
                for entry in await self._outbox.entries():
                    await self._review_one(entry)
        except (RedisError, TimeoutError) as error:
            reason = str(error) or "no reply in time"
            _log.warning("dead letters not reviewed", queue=self._queue, reason=reason)
            return False
        return True

    async def _review_one(self, entry: OutboxEntry) -> None:
        """Decide about one entry; where the server refuses, the others are not held up."""
        try:
            await self._settle(entry, may_come=True)
        except ReplyError as error:
            reason = str(error)
            _log.warning(
                "a dead letter is late", queue=self._queue, job_id=entry.job_id, reason=reason
            )

    async def _settle(self, entry: OutboxEntry, *, may_come: bool) -> None:
        """Do with an entry as is decided; `may_come` says whether its finish may still come."""
        match decide(entry, await self._outbox.standing(entry)):
            case Decision.DELIVER:
                await self._outbox.deliver(entry)
            case Decision.WAIT if may_come:
                pass
            case Decision.DROP | Decision.WAIT:
                await self._outbox.drop(entry)


def _write(
    job: StoredJob, queue: str, entry: OutboxEntry, ending: Finish, error_class: ErrorClass
) -> bytes:
    """Write a `DeadLetter`; what the producer wrote goes in as it is."""
    letter = {
        "job": {
            "id": job.id,
            "queue": queue,
            "name": job.name,
            "created_ms": job.timestamp_ms,
            "data": _as_written(job.data),
            "opts": _as_written(job.raw_options or b"{}"),
        },
        "error": {"class": error_class.value, "message": ending.value.decode("utf-8", "replace")},
        "model": _model_in(job.data),
        "attempts": orjson.Fragment(ending.history or b"[]"),
        "failed_at_ms": entry.at_ms,
        "worker": entry.worker,
    }
    return orjson.dumps(letter)


def _as_written(raw: bytes) -> orjson.Fragment | str:
    """Return JSON as it is, also where it has numbers that we would not take; text where it is none."""
    try:
        loads(raw)
    except InvalidRequest:
        try:
            json.loads(raw.decode(), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return raw.decode("utf-8", "replace")
    return orjson.Fragment(raw)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _model_in(data: bytes) -> str | None:
    try:
        found = loads(data)
    except InvalidRequest:
        return None
    model = found.get("model") if isinstance(found, dict) else None
    return model if isinstance(model, str) else None

"""The outbox of dead letters: what was to be told of a failure before the failure is written down.

An entry is one field of a hash, named by all that tells one finish from every other: a job may be
failed by two workers at a time, one of them refused, and again after somebody has retried it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import orjson

from worker_core._bullmq.adding import pack_added, standard_keys
from worker_core._bullmq.calls import ScriptCall
from worker_core._bullmq.job import HISTORY_FIELD
from worker_core._bullmq.scripts import load_script
from worker_core.structure import InvalidData, structure

if TYPE_CHECKING:
    from worker_core._bullmq.keys import QueueKeys
    from worker_core._bullmq.queue import Queue

__all__ = ["Outbox", "OutboxEntry", "Standing", "deliver_letter", "find_standing"]


@attrs.frozen(kw_only=True)
class OutboxEntry:
    """A finish that fails a job for good, and may or may not be accepted."""

    job_id: str
    name: str
    created_ms: int
    """The job's timestamp: a later job may have its id."""
    token: str
    """Whose lock the finish needs."""
    worker: str
    at_ms: int
    """When the job fails by it."""

    @property
    def letter_id(self) -> str:
        """The id of the job that the dead letter becomes."""
        return f"{self.job_id}-{self.at_ms}"

    def field(self) -> bytes:
        """Return the entry as the name of its field."""
        return orjson.dumps(attrs.asdict(self))


@attrs.frozen(kw_only=True)
class Standing:
    """Where a job stands, as far as it tells what became of one finish."""

    lock: str | None = None
    created_ms: int | None = None
    """`None` where the job is gone."""
    finished_on_ms: int | None = None
    is_failed: bool = False
    history: bytes = b""
    """Its failed attempts, as they stand in its hash."""


class Outbox:
    """The outbox of one queue, and the queue that its letters go to."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._keys = queue.keys
        self._letters = queue.keys.dead

    async def put(self, entry: OutboxEntry, letter: bytes) -> None:
        """Keep an entry with the dead letter, JSON, that it is for; done twice is done once."""
        await self._queue.link.call("HSET", self._keys.dead_outbox, entry.field(), letter)

    def post_drop(self, entry: OutboxEntry) -> None:
        """Take an entry out, without waiting for the answer."""
        self._queue.link.post("HDEL", self._keys.dead_outbox, entry.field())

    async def drop(self, entry: OutboxEntry) -> None:
        """Take an entry out."""
        await self._queue.link.call("HDEL", self._keys.dead_outbox, entry.field())

    async def entries(self) -> list[OutboxEntry]:
        """Return every entry that can be read; there are none but for a moment, or after a crash."""
        reply = await self._queue.link.call("HKEYS", self._keys.dead_outbox)
        found = (_read_entry(one) for one in (reply if isinstance(reply, list) else ()))
        return [entry for entry in found if entry is not None]

    async def standing(self, entry: OutboxEntry) -> Standing:
        """Tell where an entry's job stands, all of it at one moment."""
        return _read_standing(await self._queue.run(find_standing(self._keys, entry.job_id)))

    async def deliver(self, entry: OutboxEntry) -> None:
        """Put an entry's letter on its queue and take the entry out; done twice is done once."""
        await self._queue.run(deliver_letter(self._keys, self._letters, entry))


def find_standing(keys: QueueKeys, job_id: str) -> ScriptCall:
    """Ask what shows whether a finish of a job was accepted."""
    return ScriptCall(
        load_script("findStanding"),
        (keys.job(job_id), keys.lock(job_id), keys.failed),
        (job_id, HISTORY_FIELD),
    )


def deliver_letter(keys: QueueKeys, letters: QueueKeys, entry: OutboxEntry) -> ScriptCall:
    """Move an entry's letter from the outbox to the queue `letters`."""
    # Not by a producer's options, whose check refuses a colon: the ids of schedulers' jobs have them.
    stored = {"attempts": 1, "jobId": entry.letter_id}
    packed = pack_added(letters, entry.name, stored, job_id=entry.letter_id)
    return ScriptCall(
        load_script("deliverLetter"),
        (*standard_keys(letters), keys.dead_outbox),
        (*packed, entry.field()),
    )


def _read_entry(field: object) -> OutboxEntry | None:
    if not isinstance(field, bytes):
        return None
    try:
        entry = structure(orjson.loads(field), OutboxEntry)
    except (ValueError, InvalidData):
        return None
    # What says more than we know is of a version to come, and for its workers to decide.
    return entry if entry.field() == field else None


def _read_standing(reply: object) -> Standing:
    match reply:
        case [lock, created, finished_on, history, score]:
            return Standing(
                lock=lock.decode("utf-8", "replace") if isinstance(lock, bytes) else None,
                created_ms=_number(created),
                finished_on_ms=_number(finished_on),
                is_failed=score is not None,
                history=history if isinstance(history, bytes) else b"",
            )
        case _:
            raise ValueError(f"findStanding was answered with {reply!r:.80}")


def _number(raw: object) -> int | None:
    try:
        return int(float(raw)) if isinstance(raw, bytes) else None
    except (ValueError, OverflowError):
        return 0  # there, and no number: no finish of ours, and no job that is gone

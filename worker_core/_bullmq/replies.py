"""Reading the replies of the protocol's scripts. Pure."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

import attrs

from worker_core._bullmq.calls import COUNTED_STATES
from worker_core._bullmq.job import StoredJob, read_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker_core.errors import ReplyError

__all__ = [
    "STILL_OWNED",
    "Claim",
    "EventKind",
    "Final",
    "FinalState",
    "Finished",
    "JobState",
    "Nothing",
    "QueueEvent",
    "Refusal",
    "Settled",
    "may_have_run",
    "read_claim",
    "read_events",
    "read_finish",
    "read_finished",
    "read_ids",
    "read_marker",
    "read_move",
    "read_owned",
    "read_settled",
    "read_state",
    "read_stream",
    "read_wait",
]


class Refusal(enum.Enum):
    """Why a script would not move a job."""

    JOB_GONE = -1
    LOCK_GONE = -2
    NOT_ACTIVE = -3
    PENDING_CHILDREN = -4
    LOCK_STOLEN = -6
    FAILED_CHILDREN = -9
    NONE_PENDING = 1
    """It would wait for children, and they have all ended."""

    @property
    def is_loss(self) -> bool:
        """Whether the job is no longer this worker's to write for."""
        return self not in {
            Refusal.PENDING_CHILDREN,
            Refusal.FAILED_CHILDREN,
            Refusal.NONE_PENDING,
        }


@attrs.frozen(kw_only=True)
class Nothing:
    """No job to run now."""

    limited_ms: int = 0
    """How long the queue's rate limit lasts."""
    due_at_ms: int = 0
    """When the next delayed job is due, in milliseconds since the epoch; 0 where none is."""


Claim: TypeAlias = StoredJob | Nothing

_REFUSED_AT_ONCE = frozenset({"OOM", "NOREPLICAS", "MISCONF", "BUSY"})


def may_have_run(error: ReplyError) -> bool:
    """Tell whether a script that ended in this error may have done a part of its work.

    The server refuses for its own reasons at the first write or not at all. Any other error is
    raised wherever a script stumbles over what stands in a job, and undoes nothing.
    """
    return error.code not in _REFUSED_AT_ONCE


@attrs.frozen
class Finished:
    """A finish that was accepted, with the job that it brought along."""

    following: Claim


def read_claim(reply: object) -> Claim:
    """Read `moveToActive`: `[hash | 0, id, limit in ms, next due time in ms]`."""
    # Not by a pattern: this is read once a job, and costs four times as much there.
    if isinstance(reply, list) and len(reply) == 4:
        pairs, job_id, limited_ms, due = reply
        if isinstance(pairs, list) and isinstance(job_id, bytes):
            return read_job(job_id.decode("utf-8", "replace"), pairs)
        if isinstance(limited_ms, int):
            return Nothing(limited_ms=max(0, limited_ms), due_at_ms=max(0, _due_ms(due)))
    return Nothing()


def _due_ms(due: object) -> int:
    # The script divides by 4096, so Lua may hand over a float as text.
    match due:
        case int():
            return due
        case bytes():
            return int(float(due))
        case _:
            return 0


def read_finish(reply: object) -> Finished | Refusal:
    """Read `moveToFinished`: 0, a negative code, or the next job as `moveToActive` gives it."""
    match reply:
        case int() if reply < 0:
            return Refusal(reply)
        case list():
            return Finished(read_claim(reply))
        case _:
            return Finished(Nothing())


def read_move(reply: object) -> Refusal | None:
    """Read a script that moves a job: a negative code says why it would not."""
    return Refusal(reply) if isinstance(reply, int) and reply < 0 else None


def read_wait(reply: object) -> Refusal | None:
    """Read `moveToWaitingChildren`, whose 1 is a refusal too."""
    return Refusal(reply) if isinstance(reply, int) and reply else None


def read_owned(reply: object) -> StoredJob | None:
    """Read `findOwnedJob`: `[hash, id]` or nothing."""
    match reply:
        case [list(pairs), bytes(job_id)]:
            return read_job(job_id.decode("utf-8", "replace"), pairs)
        case _:
            return None


def read_ids(reply: Sequence[object]) -> frozenset[str]:
    """Read a list of job ids: those whose lock could not be renewed, those that had stalled."""
    return frozenset(i.decode("utf-8", "replace") for i in reply if isinstance(i, bytes))


def read_counts(reply: object) -> dict[str, int]:
    """Read `getCounts`: a number for each of the states asked for."""
    numbers = reply if isinstance(reply, list) else []
    return {
        state: number if isinstance(number, int) else 0
        for state, number in zip(COUNTED_STATES, numbers, strict=False)
    }


def read_marker(reply: object) -> float | None:
    """Read `BZPOPMIN` on the marker: when the next delayed job is due, in ms; 0 for "now".

    `None` where the block's time was over.
    """
    match reply:
        case [_, _, bytes(score)]:
            return float(score)
        case _:
            return None


@attrs.frozen(kw_only=True)
class Settled:
    """What stands in a job's hash after a settling call was sent and not answered."""

    owned: bool = False
    """The lock is still the asker's: the call did not run."""
    exists: bool = True
    finished_on_ms: int | None = None
    attempts_made: int = 0


STILL_OWNED = Settled(owned=True)


def read_settled(fields: object) -> Settled:
    """Read `HMGET finishedOn atm timestamp` of a job that the asker does not own any more."""

    def number(raw: object) -> int | None:
        try:
            return int(raw) if isinstance(raw, bytes) else None
        except ValueError:
            return None

    match fields:
        case [finished_on, attempts_made, timestamp]:
            return Settled(
                exists=timestamp is not None,
                finished_on_ms=number(finished_on),
                attempts_made=number(attempts_made) or 0,
            )
        case _:
            return Settled(exists=False)


class FinalState(enum.Enum):
    """Where a finished job stands."""

    COMPLETED = 1
    FAILED = 2


@attrs.frozen
class Final:
    """A finished job's state with its return value (JSON) or failure reason (text)."""

    state: FinalState
    value: bytes


def read_finished(reply: object) -> Final | Refusal | None:
    """Read `isFinished`: the end of a job, `None` while it has none, or that the job is gone."""
    match reply:
        case [1, bytes(value)]:
            return Final(FinalState.COMPLETED, value)
        case [1, *_]:
            return Final(FinalState.COMPLETED, b"null")
        case [2, bytes(value)]:
            return Final(FinalState.FAILED, value)
        case [2, *_]:
            return Final(FinalState.FAILED, b"")
        case [-1, *_]:
            return Refusal.JOB_GONE
        case _:
            return None


class JobState(enum.Enum):
    """Where a job stands, in BullMQ's words."""

    WAITING = "waiting"
    PRIORITIZED = "prioritized"
    DELAYED = "delayed"
    WAITING_CHILDREN = "waiting-children"
    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """In none of the queue's lists: it is being moved or removed, or was left over."""


def read_state(reply: object) -> JobState:
    """Read `getStateV2`."""
    try:
        return JobState(reply.decode()) if isinstance(reply, bytes) else JobState.UNKNOWN
    except ValueError:
        return JobState.UNKNOWN


class EventKind(enum.Enum):
    """What an event of a queue says of its job; those that concern nobody here are `OTHER`."""

    ADDED = "added"
    PROGRESS = "progress"
    COMPLETED = "completed"
    FAILED = "failed"
    """For good: an attempt that will be followed by another is told otherwise."""
    REMOVED = "removed"
    OTHER = ""


@attrs.frozen
class QueueEvent:
    """One entry of a queue's event stream; `value` is the return value, the reason, the progress."""

    id: bytes
    kind: EventKind
    job_id: str
    value: bytes

    @property
    def final(self) -> Final | None:
        """The job's end, where this event is its end."""
        match self.kind:
            case EventKind.COMPLETED:
                return Final(FinalState.COMPLETED, self.value)
            case EventKind.FAILED:
                return Final(FinalState.FAILED, self.value)
            case EventKind.ADDED | EventKind.PROGRESS | EventKind.REMOVED | EventKind.OTHER:
                return None


_EVENT_VALUES = {
    EventKind.COMPLETED: b"returnvalue",
    EventKind.FAILED: b"failedReason",
    EventKind.PROGRESS: b"data",
}


def read_events(reply: object) -> list[QueueEvent]:
    """Read `XREVRANGE` on a queue's events: `[[id, [name, value, ...]], ...]`."""
    events = []
    for entry in reply if isinstance(reply, list) else ():
        match entry:
            case [bytes(entry_id), [*flat]]:
                fields = dict(zip(flat[::2], flat[1::2], strict=False))
            case _:
                continue
        kind = _event_kind(fields.get(b"event", b""))
        events.append(
            QueueEvent(
                id=entry_id,
                kind=kind,
                job_id=fields.get(b"jobId", b"").decode("utf-8", "replace"),
                value=fields.get(_EVENT_VALUES.get(kind, b""), b""),
            )
        )
    return events


def _event_kind(raw: bytes) -> EventKind:
    try:
        return EventKind(raw.decode())
    except ValueError:
        return EventKind.OTHER


def read_stream(reply: object) -> list[QueueEvent]:
    """Read `XREAD` on one queue's events: `[[key, entries]]`, or nothing in the time given."""
    match reply:
        case [[_, entries]]:
            return read_events(entries)
        case _:
            return []

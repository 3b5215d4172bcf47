"""What the clients ask of a queue, step by step, without the asking.

Each function is a generator that yields a call and is sent its reply; `Client` and `SyncClient`
carry the calls, each in its own way. So nothing of the protocol is written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import attrs

from worker_core._bullmq.adding import get_state, read_added
from worker_core._bullmq.calls import ScriptCall, is_finished
from worker_core._bullmq.job import read_job
from worker_core._bullmq.replies import (
    EventKind,
    Final,
    FinalState,
    QueueEvent,
    Refusal,
    read_events,
    read_finished,
    read_state,
)
from worker_core.client.errors import JobFailed, JobGone, ResultExpired
from worker_core.client.reading import NotJson, read_json
from worker_core.client.result import Result, read_result
from worker_core.client.view import JobRef, JobView, read_view
from worker_core.redis import Arg

if TYPE_CHECKING:
    from worker_core._bullmq.keys import QueueKeys
    from worker_core.client.submission import Submission
    from worker_core.engine import JSON

__all__ = [
    "Command",
    "Flow",
    "Step",
    "conclude",
    "find_end",
    "last_event_id",
    "look_at",
    "read_after",
    "submit",
    "tell_progress",
]

T = TypeVar("T")

_PAGE = 100
_SEARCHED_EVENTS = 10_000
"""How far back a removed job's end is looked for; BullMQ keeps about so many events."""


@attrs.frozen
class Command:
    """One plain Redis command."""

    args: tuple[Arg, ...]


Step: TypeAlias = Command | ScriptCall
Flow: TypeAlias = Generator[Step, object, T]


def submit(submission: Submission) -> Flow[JobRef]:
    """Add the job."""
    reply = yield submission.call
    return JobRef(read_added(reply), submission.queue)


def look_at(keys: QueueKeys, ref: JobRef) -> Flow[JobView | None]:
    """Read a job as it is now."""
    pairs = yield Command(("HGETALL", keys.job(ref.id)))
    if not isinstance(pairs, list) or not pairs:
        return None
    state = yield get_state(keys, ref.id)
    return read_view(ref, read_state(state), [one for one in pairs if isinstance(one, bytes)])


def find_end(keys: QueueKeys, ref: JobRef) -> Flow[Final | None]:
    """Return how the job ended, or `None` while it has not; raises `JobGone`."""
    reply = yield is_finished(keys, ref.id)
    match read_finished(reply):
        case Final() as final:
            return final
        case None:
            return None
        case Refusal():
            # Removed on completion, most likely: its end is in the events, until they are trimmed.
            remembered = yield from _find_end_in_events(keys, ref.id)
            if remembered is None:
                raise JobGone(ref)
            return remembered


def _find_end_in_events(keys: QueueKeys, job_id: str) -> Flow[Final | None]:
    before: Arg = "+"
    for _ in range(_SEARCHED_EVENTS // _PAGE):
        reply = yield Command(("XREVRANGE", keys.events, before, "-", "COUNT", _PAGE))
        events = read_events(reply)
        for event in events:
            if event.job_id != job_id:
                continue
            if event.final is not None or event.kind is EventKind.ADDED:
                return event.final  # what came before the adding was another job of this id
        if len(events) < _PAGE:
            return None
        before = b"(" + events[-1].id
    return None


def conclude(keys: QueueKeys, ref: JobRef, final: Final) -> Flow[Result]:
    """Return a finished job's result; raises `JobFailed` or `ResultExpired`."""
    match final.state:
        case FinalState.COMPLETED:
            result = read_result(final.value)
            if result.stored is None:
                return result
            stored = yield Command(("GET", result.stored.key))
            if not isinstance(stored, bytes):
                raise ResultExpired(ref, ttl=result.stored.ttl)
            return read_result(stored)
        case FinalState.FAILED:
            pairs = yield Command(("HGETALL", keys.job(ref.id)))
            raise _failure(ref, final, pairs)


def _failure(ref: JobRef, final: Final, pairs: object) -> JobFailed:
    reason = final.value.decode("utf-8", "replace") or "no reason was given"
    if not isinstance(pairs, list) or not pairs:
        return JobFailed(ref, reason, attempts=None, stacktrace=())
    job = read_job(ref.id, [one for one in pairs if isinstance(one, bytes)])
    return JobFailed(ref, reason, attempts=job.attempts_made, stacktrace=job.stacktrace)


def last_event_id(keys: QueueKeys) -> Flow[bytes]:
    """Return where the queue's events end now: what follows is read from there."""
    # Not "$": after a reconnect that would mean another place, and skip what came meanwhile.
    reply = yield Command(("XREVRANGE", keys.events, "+", "-", "COUNT", 1))
    events: list[QueueEvent] = read_events(reply)
    return events[0].id if events else b"0-0"


def read_after(keys: QueueKeys, position: bytes, block_ms: int) -> Command:
    """Read the events behind `position`, waiting up to `block_ms` for one."""
    block = max(1, block_ms)  # 0 would be for ever
    return Command(
        ("XREAD", "COUNT", _PAGE, "BLOCK", block, "STREAMS", keys.events, position),
    )


def tell_progress(event: QueueEvent, on_progress: Callable[[JSON], None] | None) -> None:
    """Pass a job's progress on, where the event is about that and somebody wants to know."""
    if on_progress is None or event.kind is not EventKind.PROGRESS:
        return
    try:
        value = read_json(event.value)
    except NotJson:
        return
    on_progress(value)

"""Cancelling a job, whatever its state: BullMQ's scripts have nothing for it. Pure.

A job that waits is taken out of its list and made the canceller's own, active and locked; then
BullMQ's `moveToFinished` fails it, so that parents, events, deduplication, retention and charts are
as for any other failure. A job that somebody runs is not touched. In either case the wish stands in
a hash until the job has ended, and is told on a channel of the same name. So a canceller that dies
between the two loses nothing: its lock runs out, the stalled check puts the job back, and the next
worker to claim it knows.

A wish is for the job of a certain id that was added at a certain time: ids may be used again.
Whoever sees to a wish of somebody else's therefore says so, and the script looks whether it stands.
"""

from __future__ import annotations

import enum
from collections.abc import Generator
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

import attrs

from worker_core._bullmq.calls import Finish, ScriptCall, finish, repair
from worker_core._bullmq.job import StoredJob, read_job
from worker_core._bullmq.replies import Finished, read_finish
from worker_core._bullmq.scripts import load_script
from worker_core._bullmq.streams import Place, add_entry, last_entry

if TYPE_CHECKING:
    from worker_core._bullmq.calls import ClaimOptions
    from worker_core._bullmq.keys import QueueKeys

__all__ = [
    "CANCELLED",
    "CancelOutcome",
    "Cancelling",
    "Taken",
    "begin_cancel",
    "cancel_job",
    "end_cancel",
    "read_begun",
    "review_wishes",
]

CANCELLED = b"cancelled"
"""The reason of a job that was cancelled."""

_CHART_MINUTES = 20_160
"""Two weeks, the longest of BullMQ's charts: where there is one, its own worker trims it."""


class CancelOutcome(enum.Enum):
    """What became of the wish to cancel a job."""

    CANCELLED = "cancelled"
    """It waited, and has failed with the reason `cancelled`."""
    REQUESTED = "requested"
    """The worker that runs it, or is the next to claim it, has been told and will fail it."""
    FINISHED = "finished"
    """It had ended before, and is left as it is."""
    UNKNOWN = "unknown"
    """The queue has no such job."""


_END_OF_STREAM = last_entry(0, CancelOutcome.CANCELLED.value, CANCELLED, runs_again=False)

Cancelling: TypeAlias = Generator[ScriptCall, object, CancelOutcome]


@attrs.frozen
class Taken:
    """A job that was taken out of its list, to be failed; `charted`: ended jobs are counted."""

    job: StoredJob
    born: bytes
    """The job's timestamp as it stands in its hash."""
    charted: bool


def begin_cancel(
    keys: QueueKeys, job_id: str, token: str, lock_ms: int, *, wished: bool = False
) -> ScriptCall:
    """Take a waiting job out of its list, locked by `token`, or keep the wish.

    With `wished` only a wish that stands is seen to.
    """
    return ScriptCall(
        load_script("beginCancel"),
        (
            *(keys.wait, keys.paused, keys.active, keys.delayed, keys.prioritized),
            *(keys.waiting_children, keys.completed, keys.failed, keys.wishes, keys.repeat),
            *(keys.metrics("completed"), keys.metrics("failed")),
        ),
        (keys.base, job_id, token, lock_ms, int(wished)),
    )


def read_begun(reply: object, job_id: str) -> Taken | CancelOutcome:
    """Read `beginCancel`."""
    match reply:
        case [[*pairs], charted]:
            fields = [one for one in pairs if isinstance(one, bytes)]
            born = dict(zip(fields[::2], fields[1::2], strict=False)).get(b"timestamp", b"")
            return Taken(read_job(job_id, fields), born, charted=charted == 1)
        case 2:
            return CancelOutcome.REQUESTED
        case 1:
            return CancelOutcome.FINISHED
        case _:
            return CancelOutcome.UNKNOWN


def end_cancel(keys: QueueKeys, job_id: str, born: bytes | int) -> ScriptCall:
    """Forget the wish for a job that has ended; `born` is its timestamp."""
    return ScriptCall(
        load_script("endCancel"),
        (keys.wishes, keys.active, keys.meta, keys.marker),
        (keys.job(job_id), job_id, born),
    )


def review_wishes(keys: QueueKeys) -> ScriptCall:
    """Forget the wishes for jobs that have ended; the reply lists the ids of the others."""
    return ScriptCall(
        load_script("reviewWishes"), (keys.wishes, keys.completed, keys.failed), (keys.base,)
    )


def cancel_job(
    keys: QueueKeys, job_id: str, options: ClaimOptions, *, wished: bool = False
) -> Cancelling:
    """Yield the calls that cancel a job and be sent their replies; each may be made twice.

    With `wished` only a wish that stands is seen to; `FINISHED` where none does.
    """
    token = f"cancel:{uuid4().hex}"
    begin = begin_cancel(keys, job_id, token, options.lock_ms, wished=wished)
    begun = read_begun((yield begin), job_id)
    if isinstance(begun, CancelOutcome):
        return begun
    job = begun.job
    if job.repairs:
        yield repair(keys, job, token)
    if job.attempts_started:
        # An earlier attempt's stream may have readers, who wait for the next one.
        yield add_entry(keys, job_id, token, _END_OF_STREAM, place=Place.FOLLOW, ttl=None)
    if begun.charted and not options.chart_minutes:
        options = attrs.evolve(options, chart_minutes=_CHART_MINUTES)
    ending = Finish(completed=False, value=CANCELLED)
    call = finish(keys, job, token, ending, options, fetch_next=False)
    ended = read_finish((yield call))
    ended_at = yield end_cancel(keys, job_id, begun.born)
    if isinstance(ended, Finished):
        return CancelOutcome.CANCELLED
    # Refused: the reply to an earlier finish was lost, or our lock ran out before.
    match ended_at:
        case b"":
            return CancelOutcome.CANCELLED  # removed as it failed
        case bytes():
            ours = ended_at == str(ending.at_ms).encode()
            return CancelOutcome.CANCELLED if ours else CancelOutcome.FINISHED
        case _:
            return CancelOutcome.REQUESTED

"""A stream of a job's own beside its hash: what it puts out while it runs (ours, not BullMQ's). Pure."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from worker_core._bullmq.calls import ScriptCall
from worker_core._bullmq.scripts import load_script
from worker_core.strict_json import dumps

if TYPE_CHECKING:
    from datetime import timedelta

    from worker_core._bullmq.keys import QueueKeys

__all__ = ["Place", "add_entry", "last_entry"]

_MOST_ENTRIES = 10_000
"""About so many are kept: eight minutes of the fastest writer."""


class Place(enum.Enum):
    """Where an entry goes."""

    FRESH = "fresh"
    """To a new stream: what is there is of an earlier job with the same id."""
    APPEND = "append"
    ONCE = "once"
    """Behind the others, where it is not the last already: it may be sent again."""
    FOLLOW = "follow"
    """The same, to the stream that an earlier run has left, if it has."""


def add_entry(
    keys: QueueKeys, job_id: str, token: str, data: bytes, *, place: Place, ttl: timedelta | None
) -> ScriptCall:
    """Add an entry, unless the job's lock is not the token's any more.

    The stream is kept for `ttl` from now on; `None`: as long as it would have been without it.
    The script looks: a call may wait out an outage that is longer than the lock.
    """
    return ScriptCall(
        load_script("addEntry"),
        (keys.lock(job_id), keys.tokens(job_id)),
        (token, place.value, _MOST_ENTRIES, "" if ttl is None else _milliseconds(ttl), data),
    )


def _milliseconds(ttl: timedelta) -> int:
    return max(1, round(ttl.total_seconds() * 1000))


def last_entry(index: int, outcome: str, reason: bytes | None, *, runs_again: bool) -> bytes:
    """Return what says how a run of the job has ended."""
    entry: dict[str, object] = {
        "event": "stop" if runs_again else "end",
        "index": index,
        "outcome": outcome,
    }
    if reason is not None:
        entry["reason"] = reason.decode("utf-8", "replace")
    return dumps(entry)

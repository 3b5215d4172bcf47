"""Which jobs a queue holds in one state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_core._bullmq.replies import JobState
from worker_core.client.flows import Command
from worker_core.client.view import JobRef, JobView, read_view

if TYPE_CHECKING:
    from worker_core._bullmq.keys import QueueKeys
    from worker_core.client.flows import Flow

__all__ = ["LISTED_STATES", "list_jobs"]

LISTED_STATES = tuple(state for state in JobState if state is not JobState.UNKNOWN)


def list_jobs(keys: QueueKeys, state: JobState, limit: int) -> Flow[list[JobView]]:
    """Return up to `limit` jobs: of ended ones the newest first, of others the next ones first."""
    views = []
    for raw_id in (yield from _ids(keys, state, limit))[:limit]:
        ref = JobRef(raw_id.decode("utf-8", "replace"), keys.name)
        pairs = yield Command(("HGETALL", keys.job(ref.id)))
        # Removed meanwhile, or what the list holds is no job.
        if isinstance(pairs, list) and pairs:
            views.append(read_view(ref, state, [one for one in pairs if isinstance(one, bytes)]))
    return views


def _ids(keys: QueueKeys, state: JobState, limit: int) -> Flow[list[bytes]]:
    match state:
        case JobState.WAITING:
            # Taken from the end. A paused queue keeps them in another list.
            waiting = yield Command(("LRANGE", keys.wait, -limit, -1))
            paused = yield Command(("LRANGE", keys.paused, -limit, -1))
            return [*_members(waiting)[::-1], *_members(paused)[::-1]]
        case JobState.ACTIVE:
            return _members((yield Command(("LRANGE", keys.active, -limit, -1))))[::-1]
        case JobState.PRIORITIZED:
            return _members((yield Command(("ZRANGE", keys.prioritized, 0, limit - 1))))
        case JobState.DELAYED:
            return _members((yield Command(("ZRANGE", keys.delayed, 0, limit - 1))))
        case JobState.WAITING_CHILDREN:
            return _members((yield Command(("ZRANGE", keys.waiting_children, 0, limit - 1))))
        case JobState.COMPLETED:
            return _members((yield Command(("ZREVRANGE", keys.completed, 0, limit - 1))))
        case JobState.FAILED:
            return _members((yield Command(("ZREVRANGE", keys.failed, 0, limit - 1))))
        case JobState.UNKNOWN:
            raise ValueError("jobs that are in no list cannot be listed")


def _members(reply: object) -> list[bytes]:
    found = [one for one in reply if isinstance(one, bytes)] if isinstance(reply, list) else []
    # Older BullMQ versions keep their marker in the list of what waits.
    return [one for one in found if not one.startswith(b"0:")]

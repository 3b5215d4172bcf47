"""Building the calls of whoever looks after a queue: running a failed job again, removing one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_core._bullmq.calls import ScriptCall
from worker_core._bullmq.scripts import load_script

if TYPE_CHECKING:
    from worker_core._bullmq.keys import QueueKeys

__all__ = ["remove", "reprocess"]


def reprocess(keys: QueueKeys, job_id: str, *, lifo: bool) -> ScriptCall:
    """Put a failed job back on its queue, as `job.retry()` does: 1, or why not.

    What it has spent of its attempts stays spent, so that it has one more.
    """
    return ScriptCall(
        load_script("reprocessJob"),
        (
            *(keys.job(job_id), keys.events, keys.failed, keys.wait, keys.meta, keys.active),
            *(keys.marker, keys.prioritized, keys.pc),
        ),
        (job_id, "RPUSH" if lifo else "LPUSH", "failedReason", "failed", "0", "0"),
    )


def remove(keys: QueueKeys, job_id: str) -> ScriptCall:
    """Remove a job, whatever its state: 1, or 0 where a worker has it."""
    return ScriptCall(
        load_script("removeJob"), (keys.job(job_id), keys.repeat), (job_id, "0", keys.base)
    )

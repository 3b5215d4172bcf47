"""Letting a job scheduler go on: its next job is made when one of its jobs is claimed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from worker_core._bullmq.calls import now_ms
from worker_core._bullmq.scheduling import BadSchedule, make_next
from worker_core.errors import RedisError, ReplyLost

if TYPE_CHECKING:
    from worker_core._bullmq.job import StoredJob
    from worker_core._bullmq.queue import Queue

__all__ = ["advance_scheduler"]

_log = structlog.get_logger("worker_core.schedules")


async def advance_scheduler(queue: Queue, job: StoredJob, *, within: float) -> None:
    """Make the next job of the scheduler that a claimed job is from, before that job runs.

    Where that fails the job runs all the same, and a warning says that the scheduler stands still.
    """
    try:
        call = make_next(queue.keys, job, now_ms=now_ms())
        if call is None:
            return
        with anyio.fail_after(within):
            while True:
                try:
                    await queue.run(call)
                    return
                except ReplyLost:
                    continue  # made twice is made once
    except (BadSchedule, RedisError, TimeoutError) as error:
        _log.warning(
            "a job scheduler stands still: its next job could not be made",
            queue=queue.keys.name,
            scheduler=job.scheduler_id,
            job_id=job.id,
            reason=str(error) or "no reply in time",
        )

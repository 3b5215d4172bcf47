"""The stalled check of one queue: jobs whose worker is gone are put back.

Every worker asks; the script lets one of them win in each interval. All ask when an interval is
over, not a whole one after their own last question: whoever won the last may be dead. A job that
stalled more often than `max_stalled_count` is marked there, and the next worker to fetch it fails
it unrun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from worker_core.errors import RedisError

if TYPE_CHECKING:
    from datetime import timedelta

    from worker_core._bullmq.queue import Queue

__all__ = ["sweep_stalled"]

_log = structlog.get_logger("worker_core.sweeper")


async def sweep_stalled(queue: Queue, *, interval: timedelta, max_stalled_count: int) -> None:
    """Check at once and then in every interval, until cancelled."""
    while True:
        pause = interval
        try:
            # Bounded: a check that waits out an outage would come on top of the next one.
            with anyio.fail_after(interval.total_seconds()):
                stalled = await queue.sweep_stalled(
                    max_stalled_count=max_stalled_count, interval=interval
                )
                pause = await queue.until_next_sweep(interval)
        except (RedisError, TimeoutError) as error:
            reason = str(error) or "no reply in time"
            _log.warning("stalled check missed", queue=queue.keys.name, reason=reason)
        else:
            if stalled:
                _log.warning(
                    "stalled jobs: their workers are gone",
                    queue=queue.keys.name,
                    job_ids=sorted(stalled),
                )
        await anyio.sleep(pause.total_seconds())

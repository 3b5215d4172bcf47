"""A feed: one queue that feeds one job type, and what is needed to consume it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from worker_core._bullmq.calls import ClaimOptions, RateLimit
from worker_core._bullmq.job import KeepJobs
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.outbox import Outbox
from worker_core._bullmq.queue import Queue
from worker_core._runtime.cancels import Cancels
from worker_core._runtime.dead_letters import DeadLetters
from worker_core._runtime.keeper import Keeper
from worker_core.redis import open_blocking_link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker_core.config import CoreSettings
    from worker_core.job import JobType, QueueSpec
    from worker_core.redis import Link

__all__ = ["Feed", "open_feed"]


@attrs.frozen
class Feed:
    """One queue that feeds one job type, and what is kept of its jobs beside their runs."""

    job_type: JobType[Any]
    spec: QueueSpec
    queue: Queue
    keeper: Keeper
    cancels: Cancels
    dead_letters: DeadLetters | None
    """`None` where none are wanted."""


@asynccontextmanager
async def open_feed(
    settings: CoreSettings, link: Link, job_type: JobType[Any], spec: QueueSpec
) -> AsyncIterator[Feed]:
    """Open the blocking link of a queue and build what consumes it."""
    config = settings.queue
    keys = QueueKeys(config.prefix, spec.name)
    # The only connection with a name: dashboards count connections by it.
    name = keys.client_name(settings.worker.id)
    async with open_blocking_link(link.connector, name=name) as blocking:
        queue = Queue(
            keys=keys,
            link=link,
            blocking=blocking,
            options=ClaimOptions(
                worker=settings.worker.id,
                lock_ms=int(config.lock_duration.total_seconds() * 1000),
                keep_completed=_keep(config.keep_completed),
                keep_failed=_keep(config.keep_failed),
                chart_minutes=config.chart_minutes,
                limit=_limit(spec),
            ),
            drain_delay=config.drain_delay,
        )
        keeper = Keeper(queue, config.lock_renew_time)
        cancels = Cancels(queue, keeper, interval=config.stalled_interval)
        dead_letters = None
        if settings.dead_letters.enabled:
            dead_letters = DeadLetters(
                Outbox(queue),
                queue=spec.name,
                worker=settings.worker.id,
                interval=config.stalled_interval,
            )
        yield Feed(job_type, spec, queue, keeper, cancels, dead_letters)


def _limit(spec: QueueSpec) -> RateLimit | None:
    if spec.limit is None:
        return None
    duration_ms = spec.limit.duration // timedelta(milliseconds=1)
    return RateLimit(max=spec.limit.max, duration_ms=duration_ms)


def _keep(count: int | None) -> KeepJobs:
    return KeepJobs(count=-1 if count is None else count)

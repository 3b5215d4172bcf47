"""The worker: its nursery tree and its phased stop.

The tree, outside in. What stands outside outlives what stands inside it:

    links            the Redis connections, opened first, closed last
    ├ services       beside the jobs, restarted with backoff; alive while draining, to say so
    └ keepers        one per queue: renews the locks of all its running jobs in one call;
      │              and the progress pump
      └ plugins      engine and job types, entered after the links, left after the last job
        └ loads      models being loaded: they belong to the worker, no job's end stops them
          └ slots    one long-lived task each; one scope per job, shielded from everything but
            │        its own reasons, with a deadline that the drain may only shorten
            └ claimers   one per queue: get a slot first, then claim; block only when idle

So a claimer that crashes cannot end the slots, a slot that crashes cannot end the keeper, and
every result is written while its lock is still renewed. A task that crashes does not let its error
fly through the tree: it is kept, the phased stop is requested, and all such errors are raised at
the end, when every job has been settled.

The stop has phases, each of them bounded:

    1. no more claims     claimers are cancelled; a claim that was sent is brought to its end and
                          what it brought is given back
    2. drain              running jobs go on to min(their own deadline, the grace)
    3. return             what is left is cancelled and put back at the head of its queue, no
                          attempt spent; bounded by `RETURN_SECONDS`
    4. close              loads, plugins, keepers, services and links end, in this order

A second request skips to the return.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import structlog

from worker_core._bullmq.calls import ClaimOptions
from worker_core._bullmq.job import KeepJobs
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.queue import Queue
from worker_core._bullmq.scripts import load_scripts
from worker_core._observe.metrics import WorkerMetrics
from worker_core._runtime.admission import Admission
from worker_core._runtime.consumer import Consumer
from worker_core._runtime.execution import Execution, RunParts
from worker_core._runtime.keeper import Keeper
from worker_core._runtime.observers import notifier
from worker_core._runtime.progress import ProgressPump
from worker_core._runtime.services import ServiceSurroundings, supervise
from worker_core._runtime.settlement import Settler
from worker_core.engine import Host
from worker_core.errors import PluginError
from worker_core.errors import RedisUnavailable
from worker_core.redis import Endpoint, LinkOptions, Redis, open_blocking_link, open_link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import TaskGroup, TaskStatus

    from worker_core._runtime.plugins import Composition
    from worker_core.config import CoreSettings
    from worker_core.engine import Engine
    from worker_core.job import JobType, QueueSpec
    from worker_core.redis import Link, LinkState

__all__ = ["Worker"]

_log = structlog.get_logger("worker_core.worker")

_CLOSE_SECONDS = 10.0
"""How long engine and job types may take to close."""


@attrs.frozen
class _Feed:
    """One queue that feeds one job type, and the keeper of its locks."""

    job_type: JobType[Any]
    spec: QueueSpec
    queue: Queue
    keeper: Keeper


class Worker:
    """A worker composed of plugins; `run` it once."""

    def __init__(self, settings: CoreSettings, composition: Composition) -> None:
        self._settings = settings
        self._composition = composition
        self._stop_requested = anyio.Event()
        self._stop_hurried = anyio.Event()
        self._crashes: list[Exception] = []
        self._pump = ProgressPump()
        self.metrics = WorkerMetrics(settings.worker.id)

    def request_stop(self, reason: str) -> None:
        """Begin the phased stop; a second request skips the grace."""
        if self._stop_requested.is_set():
            _log.warning("stopping at once: running jobs go back to their queues", reason=reason)
            self._stop_hurried.set()
        else:
            grace = self._settings.worker.grace.total_seconds()
            _log.info("stopping", reason=reason, grace_seconds=grace)
            self._stop_requested.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until stopped; `started()` comes when every queue is being claimed from.

        Raises `RedisUnavailable` when Redis cannot be reached within `redis.start_timeout`, and
        at the end an `ExceptionGroup` of what crashed, if anything did.
        """
        redis = self._settings.redis
        endpoint = Endpoint.from_url(redis.url, password=redis.password)
        options = LinkOptions(reply_timeout=redis.reply_timeout.total_seconds())
        async with AsyncExitStack() as links:
            link = await links.enter_async_context(
                open_link(
                    endpoint,
                    scripts=load_scripts(),
                    options=options,
                    on_state=self._on_link_state,
                )
            )
            if await self._connects(link):
                feeds = [
                    await links.enter_async_context(_open_feed(self._settings, link, job_type, spec))
                    for job_type in self._composition.job_types
                    for spec in job_type.queues
                ]
                await self._run_beside(link, feeds, task_status)
        if self._crashes:
            raise ExceptionGroup("the worker stopped because parts of it crashed", self._crashes)

    def _on_link_state(self, state: LinkState) -> None:
        self.metrics.redis_reconnects(state.reconnects)

    async def _connects(self, link: Link) -> bool:
        """Wait for the first connection; `False` when a stop was requested before it came."""
        failure: RedisUnavailable | None = None
        async with anyio.create_task_group() as waiting:

            async def end_on_stop() -> None:
                await self._stop_requested.wait()
                waiting.cancel_scope.cancel()

            waiting.start_soon(end_on_stop)
            try:
                within = self._settings.redis.start_timeout.total_seconds()
                await link.wait_connected(within=within)
            except RedisUnavailable as error:
                failure = error  # raised below: out of the group it would come wrapped
            waiting.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return not self._stop_requested.is_set()

    async def _run_beside(
        self, link: Link, feeds: list[_Feed], task_status: TaskStatus[None]
    ) -> None:
        """The level of the services, and in it that of the keepers."""
        async with anyio.create_task_group() as services:
            for service in self._composition.services:
                surroundings = ServiceSurroundings(
                    worker_id=self._settings.worker.id,
                    redis=Redis(link),
                    registry=self.metrics.registry,
                    log=structlog.get_logger("worker_core.service").bind(service=service.name),
                    stop=self.request_stop,
                )
                await services.start(
                    supervise, service, surroundings, self.metrics, self._crash
                )
            async with anyio.create_task_group() as keepers:
                keepers.start_soon(self._guarded, self._pump.run)
                for feed in feeds:
                    keepers.start_soon(self._guarded, feed.keeper.run)
                await self._run_plugins(link, feeds, task_status)
                keepers.cancel_scope.cancel()
            services.cancel_scope.cancel()

    async def _run_plugins(
        self, link: Link, feeds: list[_Feed], task_status: TaskStatus[None]
    ) -> None:
        """The level of engine and job types, and in it that of the loads."""
        with anyio.CancelScope() as closing:
            async with AsyncExitStack() as entered:
                if self._composition.engine is not None:
                    await entered.enter_async_context(self._composition.engine)
                    _check_hosts(self._composition.engine)
                for job_type in self._composition.job_types:
                    await entered.enter_async_context(job_type)
                async with anyio.create_task_group() as loads:
                    consumers = self._consumers(link, feeds, loads)
                    await self._consume(feeds, consumers, task_status)
                    loads.cancel_scope.cancel()
                closing.deadline = anyio.current_time() + _CLOSE_SECONDS
        if closing.cancelled_caught:
            _log.error("engine or job types did not close in time", seconds=_CLOSE_SECONDS)

    def _consumers(self, link: Link, feeds: list[_Feed], loads: TaskGroup) -> list[Consumer]:
        engine = self._composition.engine
        worker = self._settings.worker
        parts = RunParts(
            worker_id=worker.id,
            redis=Redis(link),
            admission=Admission(engine, loads, max_wait=worker.max_wait) if engine else None,
            pump=self._pump,
            metrics=self.metrics,
            results=self._settings.results,
            outage_seconds=self._settings.redis.outage_timeout.total_seconds(),
            notify=notifier(self._composition.observers),
        )
        return [
            Consumer(
                queue=feed.queue,
                execution=Execution(
                    job_type=feed.job_type,
                    express=feed.spec.express,
                    queue=feed.queue,
                    keeper=feed.keeper,
                    settler=Settler(feed.queue, lambda: not self._stop_requested.is_set()),
                    parts=parts,
                ),
                concurrency=feed.spec.concurrency or worker.concurrency,
            )
            for feed in feeds
        ]

    async def _consume(
        self, feeds: list[_Feed], consumers: list[Consumer], task_status: TaskStatus[None]
    ) -> None:
        """The levels of slots and claimers, and the first three phases of the stop."""
        async with anyio.create_task_group() as slots:
            for consumer in consumers:
                for slot in consumer.slots:
                    slots.start_soon(self._guarded, consumer.run_slot, slot)
            async with anyio.create_task_group() as claimers:
                for consumer in consumers:
                    claimers.start_soon(self._guarded, consumer.run_claimer)
                _log.info("ready", queues=[feed.queue.keys.name for feed in feeds])
                task_status.started()
                await self._stop_requested.wait()
                # Closed first: what a claim under way brings now is given back, not begun.
                for consumer in consumers:
                    consumer.close()
                claimers.cancel_scope.cancel()
            drained_at = anyio.current_time() + self._settings.worker.grace.total_seconds()
            _end_jobs(feeds, consumers, drained_at)
            async with anyio.create_task_group() as hurry:
                hurry.start_soon(self._end_early, feeds, consumers)
                for consumer in consumers:
                    await consumer.ended()
                hurry.cancel_scope.cancel()

    async def _end_early(self, feeds: list[_Feed], consumers: list[Consumer]) -> None:
        await self._stop_hurried.wait()
        _end_jobs(feeds, consumers, anyio.current_time())

    async def _guarded(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a task of the tree; its crash stops the worker in phases instead of tearing it."""
        try:
            await task(*args)
        except* Exception as group:
            self._crash(group)

    def _crash(self, error: Exception) -> None:
        _log.critical("a part of the worker crashed", exc_info=error)
        self._crashes.append(error)
        if not self._stop_requested.is_set():
            self.request_stop("a part of the worker crashed")


def _check_hosts(engine: Engine) -> None:
    # Only now: an engine may make its hosts when it is entered.
    if not engine.hosts or not all(isinstance(host, Host) for host in engine.hosts):
        raise PluginError(engine.name, "its engine has no hosts")


def _end_jobs(feeds: list[_Feed], consumers: list[Consumer], at: float) -> None:
    """Let every job, running or about to, end by `at` at the latest."""
    for consumer in consumers:
        consumer.end_by(at)
    for feed in feeds:
        for scope in feed.keeper.scopes:
            scope.end_by(at)


@asynccontextmanager
async def _open_feed(
    settings: CoreSettings, link: Link, job_type: JobType[Any], spec: QueueSpec
) -> AsyncIterator[_Feed]:
    """Open the blocking link of a queue and build what consumes it."""
    config = settings.queue
    keys = QueueKeys(config.prefix, spec.name)
    # The only connection with a name: dashboards count connections by it.
    name = keys.client_name(settings.worker.id)
    async with open_blocking_link(link.endpoint, name=name) as blocking:
        queue = Queue(
            keys=keys,
            link=link,
            blocking=blocking,
            options=ClaimOptions(
                worker=settings.worker.id,
                lock_ms=int(config.lock_duration.total_seconds() * 1000),
                keep_completed=_keep(config.keep_completed),
                keep_failed=_keep(config.keep_failed),
            ),
            drain_delay=config.drain_delay,
        )
        yield _Feed(job_type, spec, queue, Keeper(queue, config.lock_renew_time))


def _keep(count: int | None) -> KeepJobs:
    return KeepJobs(count=-1 if count is None else count)

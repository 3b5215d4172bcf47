"""The worker: its nursery tree and its phased stop.

The tree, outside in. What stands outside outlives what stands inside it:

    links            the Redis connections, opened first, closed last
    └ services       beside the jobs, restarted with backoff; there before Redis is and while
      │              draining, to say so; the watchdog's pulse
      └ keepers      one per queue: renews the locks of all its running jobs in one call; the
        │            stalled check; the pump; who is to be cancelled; dead letters
        └ plugins    engine, fallbacks and job types, entered after the links, left after the last job
          └ loads    models being loaded: they belong to the worker, no job's end stops them
            └ slots  one long-lived task each; its jobs run one after the other in one scope,
              │      shielded from everything but their own reasons, that a stopped job spends;
              │      their deadlines the drain may only shorten
              └ claimers   one per queue: get a slot first, then claim; begin to block only when
                           idle

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

A second signal skips to the return (`hurry`); asking again does not.
"""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import anyio
import structlog

from worker_core._bullmq.queue import Queue
from worker_core._bullmq.scripts import load_scripts
from worker_core._observe.metrics import WorkerMetrics
from worker_core._runtime.assembly import Assembly
from worker_core._runtime.cancels import Listener, hear_channels
from worker_core._runtime.consumer import Consumer
from worker_core._runtime.control import Control
from worker_core._runtime.feeds import Feed, open_feed
from worker_core._runtime.pump import Pump
from worker_core._runtime.services import ServiceSurroundings, supervise
from worker_core._runtime.status import Status, engine_check, queue_check, redis_check
from worker_core._runtime.stop import Stop
from worker_core._runtime.sweeper import sweep_stalled
from worker_core._runtime.watchdog import Watchdog
from worker_core.engine import Host
from worker_core.errors import PluginError, RedisUnavailable
from worker_core.health import WorkerPhase
from worker_core.redis import LinkOptions, Redis, connector_to, open_link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup, TaskStatus

    from worker_core._runtime.plugins import Composition
    from worker_core.config import CoreSettings
    from worker_core.engine import Engine
    from worker_core.redis import Link, LinkState
    from worker_core.service import Service

__all__ = ["Worker"]

_log = structlog.get_logger("worker_core.worker")

_SERVICE_START_SECONDS = 10.0
_WISHES_SECONDS = 5.0
"""How long the start may wait to be told who is to be cancelled."""
_START_SECONDS = 60.0
_CLOSE_SECONDS = 10.0
"""How long engine and job types may take to start and to close; neither loads a model."""


class Worker:
    """A worker composed of plugins; `run` it once."""

    def __init__(self, settings: CoreSettings, composition: Composition) -> None:
        self._settings = settings
        self._composition = composition
        self._stop = Stop()
        self._crashes: list[Exception] = []
        # Here, so that settings which cannot work are refused before anything is started.
        self._connector = connector_to(settings.redis.endpoint(), prefix=settings.queue.prefix)
        self._pump = Pump()
        self._watchdog = Watchdog(settings.worker.freeze_limit)
        self.metrics = WorkerMetrics(settings.worker.id)
        self.status = Status(settings.worker.id, self.metrics, self._watchdog)

    @property
    def stop_requested(self) -> anyio.Event:
        """Set when the stop begins, whoever asked for it."""
        return self._stop.requested

    def request_stop(self, reason: str) -> None:
        """Begin the phased stop; asking again changes nothing."""
        if self._stop.request():
            grace = self._settings.worker.grace.total_seconds()
            _log.info("stopping", reason=reason, grace_seconds=grace)
            self.status.phase = WorkerPhase.DRAINING

    def hurry(self, reason: str) -> None:
        """Skip the grace: what runs is cancelled and goes back to its queue."""
        self.request_stop(reason)
        _log.warning("stopping at once: running jobs go back to their queues", reason=reason)
        self._stop.hurry()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until stopped; `started()` comes when every queue is being claimed from.

        Raises `RedisUnavailable` when Redis cannot be reached within `redis.start_timeout`, and
        at the end an `ExceptionGroup` of what crashed, if anything did.
        """
        redis = self._settings.redis
        options = LinkOptions(reply_timeout=redis.reply_timeout.total_seconds())
        async with AsyncExitStack() as links:
            link = await links.enter_async_context(
                open_link(
                    self._connector,
                    scripts=load_scripts(),
                    options=options,
                    on_state=self._on_link_state,
                )
            )
            await self._run_services(link, task_status)
        if self._crashes:
            raise ExceptionGroup("the worker stopped because parts of it crashed", self._crashes)

    def _on_link_state(self, state: LinkState) -> None:
        self.metrics.redis_reconnects(state.reconnects)
        if state.connected:
            _log.info("connected to Redis", reconnects=state.reconnects)

    async def _connects(self, link: Link) -> bool:
        """Wait for the first connection; `False` when a stop was requested before it came."""
        with anyio.CancelScope() as waiting, self._stop.ends(waiting):
            within = self._settings.redis.start_timeout.total_seconds()
            await link.wait_connected(within=within)
        return not self._stop.requested.is_set()

    async def _run_services(self, link: Link, task_status: TaskStatus[None]) -> None:
        """The level of the services: there before Redis is, to say that it is not."""
        composition = self._composition
        self.status.add_checks(redis_check(link))
        if composition.engine is not None:
            self.status.add_checks(engine_check(composition.engine))
        self.status.add_checks(queue_check(self.status), *composition.health_checks)
        failure: RedisUnavailable | None = None
        async with anyio.create_task_group() as services:
            services.start_soon(self._guarded, self._watchdog.pulse)
            for service in composition.services:
                await self._start_service(services, service, link)
            # Watched while jobs may run: what closes after them has bounds of its own.
            with self._watchdog.watching():
                try:
                    connected = await self._connects(link)
                except RedisUnavailable as error:
                    # Raised below: out of the group it would come wrapped.
                    connected, failure = False, error
                if connected:
                    await self._run_keepers(link, task_status)
            services.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _start_service(self, services: TaskGroup, service: Service, link: Link) -> None:
        """Start a service and wait until it is ready, but not for ever: jobs do not need it."""
        started = anyio.Event()

        class Started:
            def started(self, value: None = None) -> None:  # noqa: ARG002  # the protocol's
                started.set()

        run = partial(
            supervise,
            service,
            self._surroundings(link, service.name),
            self.metrics,
            self._crash,
            # Not by `start()`: giving up on that would cancel the service.
            task_status=Started(),
        )
        services.start_soon(run)
        with anyio.move_on_after(_SERVICE_START_SECONDS) as waiting:
            await started.wait()
        if waiting.cancelled_caught:
            _log.warning("a service is slow to start; going on", service=service.name)

    def _surroundings(self, link: Link, service: str) -> ServiceSurroundings:
        return ServiceSurroundings(
            worker_id=self._settings.worker.id,
            redis=Redis(link, prefix=self._settings.queue.prefix),
            registry=self.metrics.registry,
            log=structlog.get_logger("worker_core.service").bind(service=service),
            status=self.status,
            stop=self.request_stop,
        )

    async def _run_keepers(self, link: Link, task_status: TaskStatus[None]) -> None:
        """The level of the keepers and of what else outlives the jobs."""
        config = self._settings.queue
        async with AsyncExitStack() as links:
            feeds = [
                await links.enter_async_context(open_feed(self._settings, link, job_type, spec))
                for job_type in self._composition.job_types
                for spec in job_type.queues
            ]
            async with anyio.create_task_group() as keepers:
                keepers.start_soon(self._guarded, self._pump.run)
                for feed in feeds:
                    self.status.add_gauge(partial(self._measure_depth, feed.queue))
                    keepers.start_soon(self._guarded, feed.keeper.run)
                    sweep = partial(
                        sweep_stalled,
                        feed.queue,
                        interval=config.stalled_interval,
                        max_stalled_count=config.max_stalled_count,
                    )
                    keepers.start_soon(self._guarded, sweep)
                    keepers.start_soon(self._guarded, feed.cancels.run)
                    if feed.dead_letters is not None:
                        keepers.start_soon(self._guarded, feed.dead_letters.run)
                control = Control(self._settings.worker.id, link, prefix=config.prefix)
                listeners: list[Listener] = [*(feed.cancels for feed in feeds), control]
                hear = partial(hear_channels, self._connector, listeners)
                keepers.start_soon(self._guarded, hear)
                await self._learn_wishes(feeds)
                await self._run_plugins(link, feeds, control, task_status)
                keepers.cancel_scope.cancel()

    async def _learn_wishes(self, feeds: list[Feed]) -> None:
        """Learn who is to be cancelled before anything is claimed."""
        with anyio.move_on_after(_WISHES_SECONDS) as waiting, self._stop.ends(waiting):
            for feed in feeds:
                await feed.cancels.reviewed.wait()

    async def _measure_depth(self, queue: Queue) -> None:
        self.metrics.queue_depth(queue.keys.name, await queue.counts())

    async def _measure_models(self, engine: Engine) -> None:
        loaded: set[str] = set()
        for host in engine.hosts:
            loaded |= await host.loaded_models()
        self.metrics.models_loaded(len(loaded))

    async def _run_plugins(
        self, link: Link, feeds: list[Feed], control: Control, task_status: TaskStatus[None]
    ) -> None:
        """The level of engine and job types, and in it that of the loads."""
        # One scope around all of it, not one for each part: what is entered here may open scopes of
        # its own, which must not outlive the one that they were opened in.
        with anyio.CancelScope() as level:
            async with AsyncExitStack() as entered:
                level.deadline = anyio.current_time() + _START_SECONDS
                with self._stop.ends(level):
                    await self._enter_plugins(entered)
                level.deadline = math.inf
                async with anyio.create_task_group() as loads:
                    consumers = self._assembly(link, control, loads).consumers(feeds)
                    self.status.consumers = tuple(consumers)
                    await self._consume(feeds, consumers, task_status)
                    loads.cancel_scope.cancel()
                level.deadline = anyio.current_time() + _CLOSE_SECONDS
        if level.cancelled_caught:
            if not self._stop.requested.is_set():
                raise PluginError("*", f"engine or job types did not start in {_START_SECONDS:g} s")
            _log.error("engine or job types were cut off as the worker stopped")

    def _assembly(self, link: Link, control: Control, loads: TaskGroup) -> Assembly:
        return Assembly(
            settings=self._settings,
            composition=self._composition,
            metrics=self.metrics,
            control=control,
            pump=self._pump,
            redis=Redis(link, prefix=self._settings.queue.prefix),
            loads=loads,
            may_fetch=lambda: not self._stop.requested.is_set(),
        )

    async def _enter_plugins(self, entered: AsyncExitStack) -> None:
        engine = self._composition.engine
        if engine is not None:
            await entered.enter_async_context(engine)
            _check_hosts(engine)
            self.status.add_gauge(partial(self._measure_models, engine))
        for fallback in self._composition.fallbacks:
            await entered.enter_async_context(fallback)
        for job_type in self._composition.job_types:
            await entered.enter_async_context(job_type)

    async def _consume(
        self, feeds: list[Feed], consumers: list[Consumer], task_status: TaskStatus[None]
    ) -> None:
        """The levels of slots and claimers, and the first three phases of the stop."""
        async with anyio.create_task_group() as slots:
            for consumer in consumers:
                for slot in consumer.slots:
                    slots.start_soon(self._guarded, consumer.run_slot, slot)
            try:
                await self._claim_until_stopped(feeds, consumers, task_status)
            except BaseException:
                # What stands outside has crashed, such as a task of a job type's own. Running jobs
                # are shielded and may wait for just that: they get the grace, no more.
                self.request_stop("a part of the worker crashed")
                self._drain(feeds, consumers)
                raise

    async def _claim_until_stopped(
        self, feeds: list[Feed], consumers: list[Consumer], task_status: TaskStatus[None]
    ) -> None:
        """The level of the claimers; returns when the last job has ended."""
        async with anyio.create_task_group() as hurry:
            async with anyio.create_task_group() as claimers:
                for consumer in consumers:
                    claimers.start_soon(self._guarded, consumer.run_claimer)
                if not self._stop.requested.is_set():
                    self.status.phase = WorkerPhase.RUNNING
                _log.info("ready", queues=[feed.queue.keys.name for feed in feeds])
                task_status.started()
                await self._stop.requested.wait()
                # The grace runs from here, also where a claim under way is slow to end.
                self._drain(feeds, consumers)
                hurry.start_soon(self._end_early, feeds, consumers)
                claimers.cancel_scope.cancel()
            for consumer in consumers:
                await consumer.ended()
            hurry.cancel_scope.cancel()

    def _drain(self, feeds: list[Feed], consumers: list[Consumer]) -> None:
        grace = self._settings.worker.grace.total_seconds()
        _end_jobs(feeds, consumers, anyio.current_time() + grace)
        # Closed before a claim can end: what it brings now is given back, not begun.
        for consumer in consumers:
            consumer.close()

    async def _end_early(self, feeds: list[Feed], consumers: list[Consumer]) -> None:
        await self._stop.hurried.wait()
        _end_jobs(feeds, consumers, anyio.current_time())

    async def _guarded(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a task of the tree; its crash stops the worker in phases instead of tearing it."""
        try:
            await task(*args)
        except* Exception as group:  # noqa: BLE001  # kept, and raised at the end
            self._crash(group)

    def _crash(self, error: Exception) -> None:
        _log.critical("a part of the worker crashed", exc_info=error)
        self._crashes.append(error)
        self.request_stop("a part of the worker crashed")


def _check_hosts(engine: Engine) -> None:
    # Only now: an engine may make its hosts when it is entered.
    if not engine.hosts or not all(isinstance(host, Host) for host in engine.hosts):
        raise PluginError(engine.name, "its engine has no hosts, or what it has are none")


def _end_jobs(feeds: list[Feed], consumers: list[Consumer], at: float) -> None:
    """Let every job, running or about to, end by `at` at the latest."""
    for consumer in consumers:
        consumer.end_by(at)
    for feed in feeds:
        for scope in feed.keeper.scopes:
            scope.end_by(at)

"""Putting the consumers of a worker together from its settings, its plugins and its links."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import attrs

from worker_core._runtime.admission import Admission
from worker_core._runtime.backoffs import Backoffs
from worker_core._runtime.consumer import Consumer
from worker_core._runtime.context import Surroundings, view_of
from worker_core._runtime.execution import Execution, RunParts
from worker_core._runtime.fallbacks import FallbackChain
from worker_core._runtime.inner import InnerParts, InnerRuns
from worker_core._runtime.known_models import KnownModels
from worker_core._runtime.observers import notifier
from worker_core._runtime.settlement import Settler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.abc import TaskGroup

    from worker_core._observe.metrics import WorkerMetrics
    from worker_core._runtime.control import Control
    from worker_core._runtime.feeds import Feed
    from worker_core._runtime.plugins import Composition
    from worker_core._runtime.pump import Pump
    from worker_core.config import CoreSettings
    from worker_core.redis import Redis

__all__ = ["Assembly"]


@attrs.frozen(kw_only=True)
class Assembly:
    """What consumers are made of."""

    settings: CoreSettings
    composition: Composition
    metrics: WorkerMetrics
    control: Control
    pump: Pump
    redis: Redis
    loads: TaskGroup
    """Where models are loaded: no job's end stops that."""
    may_fetch: Callable[[], bool]
    """Whether a finish may bring the next job."""

    def consumers(self, feeds: Sequence[Feed]) -> list[Consumer]:
        """Return a consumer for each feed."""
        settings, composition = self.settings, self.composition
        parts = RunParts(
            worker_id=settings.worker.id,
            metrics=self.metrics,
            results=settings.results,
            outage_seconds=settings.redis.outage_timeout.total_seconds(),
            max_circuit_wait=settings.worker.max_circuit_wait,
            max_started_attempts=settings.queue.max_started_attempts,
            log_each_job=settings.log.level == "debug",
        )
        admission = self.control.admission = self._admission()
        if admission is not None:
            self.metrics.watch_circuits(admission.circuits)
        notify = notifier(composition.observers)
        fallbacks = self._fallbacks(admission)
        inner = self._inner_parts(feeds, admission, fallbacks)

        def execution(feed: Feed) -> Execution:
            queue, name = feed.queue, feed.job_type.name
            return Execution(
                job_type=feed.job_type,
                around=Surroundings(
                    job_type=name,
                    express=feed.spec.express,
                    queue=queue,
                    keeper=feed.keeper,
                    redis=self.redis,
                    admission=admission,
                    fallbacks=fallbacks,
                    inner=InnerRuns(inner, frozenset({name}), express=feed.spec.express),
                    pump=self.pump,
                    stream_ttl=settings.results.stream_ttl,
                    notify=notify,
                ),
                settler=Settler(
                    queue,
                    self.may_fetch,
                    backoffs=Backoffs(
                        composition.backoffs,
                        partial(view_of, queue=queue.keys.name, job_type=name),
                    ),
                    dead_letters=feed.dead_letters,
                    max_started=settings.queue.max_started_attempts,
                ),
                cancels=feed.cancels,
                parts=parts,
            )

        return [
            Consumer(
                queue=feed.queue,
                execution=execution(feed),
                concurrency=self._slots_of(feed),
                nothing_waits=partial(feed.job_type.nothing_waits, feed.queue.keys.name),
            )
            for feed in feeds
        ]

    def _slots_of(self, feed: Feed) -> int:
        return feed.spec.concurrency or self.settings.worker.concurrency

    def _inner_parts(
        self, feeds: Sequence[Feed], admission: Admission | None, fallbacks: FallbackChain | None
    ) -> InnerParts:
        slots = Counter[str]()
        for feed in feeds:
            slots[feed.job_type.name] += self._slots_of(feed)
        return InnerParts(
            worker_id=self.settings.worker.id,
            metrics=self.metrics,
            admission=admission,
            fallbacks=fallbacks,
            job_types={one.name: one for one in self.composition.job_types},
            slots=slots,
        )

    def _fallbacks(self, admission: Admission | None) -> FallbackChain | None:
        engine, strategies = self.composition.engine, self.composition.fallbacks
        if engine is None or admission is None or not strategies:
            return None
        known = KnownModels(engine.hosts, admission.may_run)
        return FallbackChain(
            strategies, models=known.of, redis=self.redis, count=self.metrics.fallback_asked
        )

    def _admission(self) -> Admission | None:
        worker, engine = self.settings.worker, self.composition.engine
        if engine is None:
            return None
        return Admission(
            engine,
            self.loads,
            max_wait=worker.max_wait,
            engine_patience=worker.engine_patience,
            circuits=worker.circuits,
        )

"""Runs within a run: a job whose type lets the worker's other types answer parts of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import trio

from worker_core._runtime.engine_calls import GuardedEngine
from worker_core._runtime.engine_use import EngineUse
from worker_core._runtime.envelope import Envelope, write_envelope
from worker_core._runtime.failure import leading_error, words_of
from worker_core._runtime.no_engine import NoEngine
from worker_core._runtime.requests import read_request, start_clock
from worker_core._runtime.scope import JobScope
from worker_core.errors import DeadlineExceeded, Fault, InvalidRequest, Unrecoverable
from worker_core.fallback import Asker
from worker_core.inner import InnerResult
from worker_core.signals import JobSignal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from structlog.typing import FilteringBoundLogger

    from worker_core._observe.metrics import WorkerMetrics
    from worker_core._runtime.admission import Admission
    from worker_core._runtime.fallbacks import FallbackChain
    from worker_core.children import ChildJobs
    from worker_core.engine import ChatChunk
    from worker_core.inner import InnerTypes
    from worker_core.job import EngineCalls, Job, JobContext, JobType
    from worker_core.redis import Redis

__all__ = ["InnerParts", "InnerRuns"]


@attrs.frozen(kw_only=True)
class InnerParts:
    """What the inner runs of a worker share."""

    worker_id: str
    metrics: WorkerMetrics
    admission: Admission | None
    """The way to the engine; `None` where the worker has none."""
    fallbacks: FallbackChain | None = None
    """What is asked when a call to it fails."""
    job_types: Mapping[str, JobType[Any]]
    slots: Mapping[str, int]
    """How many jobs of each type the worker runs at once."""


class InnerRuns:
    """What `worker_core.inner.InnerTypes` promises, and the runs themselves.

    `outside` are the types that a run is within already: none of them may run again in it, or it
    could go on for ever.
    """

    def __init__(self, parts: InnerParts, outside: frozenset[str], *, express: bool) -> None:
        self._parts = parts
        self._outside = outside
        self._express = express

    @property
    def names(self) -> Sequence[str]:
        """The names of the types that may run, sorted."""
        return sorted(self._parts.job_types.keys() - self._outside)

    def check(self, job_type: str, data: object) -> None:
        """Raise `InvalidRequest` for what could not be run."""
        read_request(data, self._find(job_type).request, _ignore)

    def slots(self, job_type: str) -> int:
        """Return how many jobs of a type the worker runs at once."""
        return self._parts.slots[self._find(job_type).name]

    async def run(
        self, outer: JobContext, job_type: str, data: object, *, share: float
    ) -> InnerResult:
        """Run a job type on `data` within the run of `outer`."""
        if not 0 < share <= 1:
            raise ValueError(f"share must be over 0 and at most 1, not {share}")
        kind = self._find(job_type)
        run = _InnerRun(self._parts, kind, outer, share=share, express=self._express)
        within = InnerRuns(self._parts, self._outside | {kind.name}, express=self._express)
        return await run.carry_out(data, within)

    def _find(self, name: str) -> JobType[Any]:
        kind = self._parts.job_types.get(name)
        if kind is None or name in self._outside:
            there = ", ".join(self.names) or "none"
            raise InvalidRequest(
                [
                    Fault(
                        "type",
                        f"no job type {name[:100]!r} may run in this job; there are: {there}",
                    )
                ]
            )
        return kind


class _InnerRun:
    """One run of a job type within another's."""

    def __init__(
        self,
        parts: InnerParts,
        kind: JobType[Any],
        outer: JobContext,
        *,
        share: float,
        express: bool,
    ) -> None:
        self._parts = parts
        self._kind = kind
        self._share = share
        self._express = express
        self._began_at = trio.current_time()
        self._use = EngineUse()
        # Not shielded: it ends with the run that it is within, and for that one's reasons.
        self._shield = trio.CancelScope()
        self.outer = outer
        self.scope = JobScope(self._shield)
        self.job: Job = attrs.evolve(outer.job, type=kind.name)
        self.tenant = outer.tenant
        self.engine = self._new_engine()
        self.warnings: list[str] = []

    async def carry_out(self, data: object, within: InnerRuns) -> InnerResult:
        status = "cancelled"
        try:
            result = await self._answer(data, within)
            status = "success"
            return result
        except Exception:
            status = "error"
            raise
        finally:
            self.scope.end()
            self._parts.metrics.inner_run_ended(self._kind.name, status, self._use.figures())

    async def _answer(self, data: object, within: InnerRuns) -> InnerResult:
        request = read_request(data, self._kind.request, self.warnings.append)
        context = _InnerContext(self, within)
        answer: object = None
        failure: Exception | None = None
        with self._shield:
            try:
                tenant = self._kind.tenant_of(request)
                if tenant is not None:
                    self.tenant = tenant
                start_clock(self._kind, self.scope, request)
                answer = await self._kind.run(request, context)
            except* Exception as group:  # noqa: BLE001  # the boundary of a run: raised below
                failure = leading_error(group)
        self.scope.note_stop()
        if self.scope.reason is not None:
            raise DeadlineExceeded(
                f"the {self._kind.name} run did not end within {self.scope.limit_text}"
            )
        if isinstance(failure, JobSignal):
            raise Unrecoverable(
                f"a {self._kind.name} run within another job cannot be put off: {failure}"
            )
        if failure is not None:
            raise failure
        return self._result(answer)

    def _new_engine(self) -> EngineCalls:
        admission = self._parts.admission
        if admission is None:
            return NoEngine()
        return GuardedEngine(
            admission,
            self.scope,
            self._express,
            _ignore,
            self._use,
            self._share,
            fallbacks=self._parts.fallbacks,
            asker=lambda: Asker(job=self.job, tenant=self.tenant),
        )

    def _result(self, answer: object) -> InnerResult:
        envelope = Envelope(
            type=self._kind.name,
            attempt=self.job.attempt,
            worker=self._parts.worker_id,
            queue_wait=None,
            total=trio.current_time() - self._began_at,
            use=self._use,
            warnings=self.warnings,
        )
        try:
            written = write_envelope(envelope, answer)
        except Exception as error:  # the answer is a plugin's: anything may be in it
            raise Unrecoverable(f"the answer cannot be published: {words_of(error)}") from error
        return InnerResult(
            envelope=written,
            prompt_tokens=self._use.prompt_tokens,
            completion_tokens=self._use.completion_tokens,
        )


class _InnerContext:
    """What `worker_core.job.JobContext` promises, for a run within another's."""

    def __init__(self, run: _InnerRun, within: InnerRuns) -> None:
        self._run = run
        self._outer = run.outer
        self._scope = run.scope
        self._warnings = run.warnings
        self._within = within
        self.engine = run.engine
        self.job = run.job

    @property
    def tenant(self) -> str | None:
        return self._run.tenant

    @property
    def redis(self) -> Redis:
        return self._outer.redis

    @property
    def children(self) -> ChildJobs:
        return self._outer.children

    @property
    def types(self) -> InnerTypes:
        return self._within

    async def run(self, job_type: str, data: object, *, share: float = 1.0) -> InnerResult:
        return await self._within.run(self, job_type, data, share=share)

    @property
    def is_draining(self) -> bool:
        return self._outer.is_draining

    @property
    def log(self) -> FilteringBoundLogger:
        return self._outer.log.bind(inner_type=self.job.type)

    @property
    def time_left(self) -> timedelta | None:
        limits = (self._outer.time_left, self._scope.time_left)
        return min((limit for limit in limits if limit is not None), default=None)

    def progress(self, value: object) -> None:
        """Drop it: it would pass for the outer job's."""

    def emit(self, piece: str | ChatChunk) -> None:
        """Drop it: readers of the outer job's stream expect one answer."""

    def note(self, line: str) -> None:
        self._outer.note(line)

    def warn(self, text: str) -> None:
        self._warnings.append(text)


def _ignore(_: str) -> None:
    return None

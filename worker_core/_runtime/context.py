"""`JobContext` as a running job is handed it, and what the worker notes of the run.

What a job may ask for is made when it is first asked for: a quick job asks for nothing, and would
spend a third of its time on making it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import structlog

from worker_core._bullmq.streams import Place
from worker_core._bullmq.telemetry import read_telemetry
from worker_core._runtime.children import Children
from worker_core._runtime.engine_calls import GuardedEngine
from worker_core._runtime.engine_use import EngineUse
from worker_core._runtime.no_engine import NoEngine
from worker_core._runtime.progress import ProgressReporter
from worker_core._runtime.tokens import TokenStream, end_of_run
from worker_core.engine import ChatChunk
from worker_core.fallback import Asker
from worker_core.job import Job, JobEvent, JobStep, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from structlog.typing import FilteringBoundLogger

    from worker_core._bullmq.job import StoredJob
    from worker_core._bullmq.queue import Queue
    from worker_core._runtime.admission import Admission
    from worker_core._runtime.fallbacks import FallbackChain
    from worker_core._runtime.inner import InnerRuns
    from worker_core._runtime.keeper import Keeper
    from worker_core._runtime.pump import Pump
    from worker_core._runtime.scope import JobScope
    from worker_core.children import ChildJobs
    from worker_core.circuit import CircuitChange
    from worker_core.errors import FailureClass
    from worker_core.inner import InnerResult, InnerTypes
    from worker_core.job import EngineCalls
    from worker_core.redis import Redis

__all__ = ["Context", "Surroundings", "view_of"]


@attrs.frozen(kw_only=True)
class Surroundings:
    """What all runs of one job type from one queue share."""

    job_type: str
    express: bool
    queue: Queue
    keeper: Keeper
    redis: Redis
    admission: Admission | None
    """The way to the engine; `None` where the worker has none."""
    fallbacks: FallbackChain | None = None
    """What is asked when a call to it fails."""
    inner: InnerRuns
    """The other job types, as one that runs them within its jobs sees them."""
    pump: Pump
    stream_ttl: timedelta
    """How long token streams are kept."""
    notify: Callable[[JobEvent], None] | None
    """Tells the observers; `None` where there are none, so that events cost nothing."""


class Context:
    """What `worker_core.job.JobContext` promises; one for each run of a job."""

    __slots__ = (
        "_around",
        "_children",
        "_ended",
        "_engine",
        "_job",
        "_log",
        "_reporter",
        "_scope",
        "_token",
        "_tokens",
        "began_at",
        "queue_wait",
        "stored",
        "tenant",
        "use",
        "warnings",
    )

    def __init__(
        self,
        around: Surroundings,
        stored: StoredJob,
        scope: JobScope,
        began_at: float,
        token: str,
    ) -> None:
        self._around = around
        self._scope = scope
        self._token = token
        self.stored = stored
        self.began_at = began_at
        """By the loop's clock."""
        # Of later runs nobody wrote down when they were due.
        self.queue_wait: float | None = None
        """How long it waited for a slot, in seconds."""
        if not stored.attempts_made and stored.attempts_started <= 1:
            due_ms = stored.timestamp_ms + stored.options.delay
            self.queue_wait = max(0.0, stored.processed_on_ms - due_ms) / 1000
        self.use: EngineUse | None = None
        """What it used of the engine; `None` as long as it has not asked for one."""
        self.tenant: str | None = None
        """Whom the job is for, as its job type says."""
        self.warnings: list[str] = []
        self._ended = False
        self._job: Job | None = None
        self._children: Children | None = None
        self._engine: EngineCalls | None = None
        self._log: FilteringBoundLogger | None = None
        self._reporter: ProgressReporter | None = None
        self._tokens: TokenStream | None = None

    @property
    def job(self) -> Job:
        """The job that runs."""
        if self._job is None:
            around = self._around
            self._job = view_of(self.stored, queue=around.queue.keys.name, job_type=around.job_type)
        return self._job

    @property
    def engine(self) -> EngineCalls:
        """What runs models."""
        if self._engine is None:
            admission = self._around.admission
            if admission is None:
                self._engine = NoEngine()
            else:
                self.use = EngineUse()
                self._engine = GuardedEngine(
                    admission,
                    self._scope,
                    self._around.express,
                    self._admitted,
                    self.use,
                    fallbacks=self._around.fallbacks,
                    asker=self._asker,
                    on_circuit=None if self._around.notify is None else self._circuit_changed,
                )
        return self._engine

    @property
    def redis(self) -> Redis:
        """The worker's own connection."""
        return self._around.redis

    @property
    def children(self) -> ChildJobs:
        """The jobs that this one waits for."""
        if self._children is None:
            self._children = Children(self._around.queue, self.stored)
        return self._children

    @property
    def types(self) -> InnerTypes:
        """The other job types of this worker."""
        return self._around.inner

    async def run(self, job_type: str, data: object, *, share: float = 1.0) -> InnerResult:
        """Let another job type answer within this run."""
        return await self._around.inner.run(self, job_type, data, share=share)

    @property
    def is_draining(self) -> bool:
        """Whether the worker stops."""
        return self._scope.is_draining

    @property
    def log(self) -> FilteringBoundLogger:
        """A logger with job, queue and attempt bound."""
        if self._log is None:
            job = self.job
            self._log = structlog.get_logger("worker_core.job").bind(
                job_id=job.id, queue=job.queue, job_type=job.type, attempt=job.attempt
            )
        return self._log

    @property
    def time_left(self) -> timedelta | None:
        """How long the job may still run."""
        return self._scope.time_left

    def progress(self, value: object) -> None:
        """Publish how far the job is."""
        # A task of the job type's own may outlive the job that it reports for.
        if self._ended:
            return
        if self._reporter is None:
            around, job_id = self._around, self.stored.id
            self._reporter = ProgressReporter(
                around.pump,
                around.queue,
                job_id,
                may_write=lambda: around.keeper.is_sure_of(job_id),
            )
        self._reporter.report(value)

    def emit(self, piece: str | ChatChunk) -> None:
        """Add a piece of the answer to the job's token stream."""
        if self._ended:
            return
        if self._tokens is None:
            around, job_id = self._around, self.stored.id
            self._tokens = TokenStream(
                queue=around.queue,
                pump=around.pump,
                stored=self.stored,
                token=self._token,
                ttl=around.stream_ttl,
                is_sure=lambda: around.keeper.is_sure_of(job_id),
            )
        self._tokens.add(ChatChunk(piece) if isinstance(piece, str) else piece)

    def note(self, line: str) -> None:
        """Add a line to the job's own log."""
        self._around.queue.post_log(self.stored, line)

    def warn(self, text: str) -> None:
        """Add a warning to the result envelope."""
        self.warnings.append(text)

    def end(self) -> None:
        """Publish nothing more: the job's outcome says more."""
        self._ended = True
        if self._reporter is not None:
            self._reporter.close()
        if self._tokens is not None:
            self._tokens.close()

    def announce(self, outcome: Outcome, reason: bytes | None) -> None:
        """End the token stream, if there is one, by the outcome that is about to be written."""
        if self._tokens is not None:
            self._tokens.end(outcome, reason)
        elif self.stored.attempts_started > 1:
            # This run has begun no stream. An earlier one's may have readers: they would wait for
            # an end that nobody writes.
            around = self._around
            around.queue.post_entry(
                self.stored.id,
                self._token,
                end_of_run(0, outcome, reason),
                place=Place.FOLLOW,
                ttl=around.stream_ttl,
            )

    def tell(
        self,
        step: JobStep,
        *,
        model: str | None = None,
        outcome: Outcome | None = None,
        reason: str | None = None,
        failure: FailureClass | None = None,
        run_seconds: float | None = None,
        circuit: CircuitChange | None = None,
    ) -> None:
        """Tell the observers, of whom there must be some, of a step of the job's life."""
        assert self._around.notify is not None
        self._around.notify(
            JobEvent(
                step=step,
                job=self.job,
                model=model or (self.use.model_used if self.use else None),
                outcome=outcome,
                reason=reason,
                failure=failure,
                run_seconds=run_seconds,
                circuit=circuit,
            )
        )

    def _asker(self) -> Asker:
        return Asker(job=self.job, tenant=self.tenant)

    def _circuit_changed(self, change: CircuitChange) -> None:
        self.tell(JobStep.CIRCUIT_CHANGED, circuit=change)

    def _admitted(self, model: str) -> None:
        if self._around.notify is not None:
            self.tell(JobStep.ADMITTED, model=model)


def view_of(stored: StoredJob, *, queue: str, job_type: str) -> Job:
    """Return a job as its job type and the other plugins see it."""
    return Job(
        id=stored.id,
        queue=queue,
        name=stored.name,
        type=job_type,
        attempt=stored.attempts_made + 1,
        max_attempts=max(1, stored.options.attempts),
        priority=stored.priority,
        created_ms=stored.timestamp_ms,
        telemetry=read_telemetry(stored.raw_options).context,
    )

"""One job's run: parse, run in its scope, judge, settle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import structlog

from worker_core._bullmq.replies import Claim, Nothing
from worker_core._observe.metrics import JobFigures
from worker_core._runtime.context import Context
from worker_core._runtime.engine_calls import EngineUse, GuardedEngine, NoEngine
from worker_core._runtime.envelope import Envelope, write_envelope, write_pointer
from worker_core._runtime.failure import leading_error, reason_text, words_of
from worker_core._runtime.progress import ProgressReporter
from worker_core._runtime.scope import JobScope, StopReason
from worker_core._runtime.settlement import (
    Completed,
    Failed,
    LargeResult,
    Lost,
    Returned,
    Settlement,
    Verdict,
)
from worker_core.errors import (
    DeadlineExceeded,
    EngineError,
    FailureClass,
    InvalidRequest,
    Unrecoverable,
)
from worker_core.job import Job, JobEvent, JobStep, JobType, Outcome
from worker_core.strict_json import loads
from worker_core.structure import InvalidData, structure, unknown_members

if TYPE_CHECKING:
    from worker_core._bullmq.job import StoredJob
    from worker_core._bullmq.queue import Queue
    from worker_core._observe.metrics import WorkerMetrics
    from worker_core._runtime.admission import Admission
    from worker_core._runtime.keeper import Keeper
    from worker_core._runtime.progress import ProgressPump
    from worker_core._runtime.settlement import Settler
    from worker_core.config import ResultSettings
    from worker_core.redis import Redis

__all__ = ["Execution", "RunParts"]

_log = structlog.get_logger("worker_core.job")

_WARNINGS = 20
"""How many unknown members are named; a producer's mistake must not swell every result."""

_STATUS = {
    Outcome.COMPLETED: "success",
    Outcome.FAILED: "error",
    Outcome.RETRIED: "retried",
    Outcome.RETURNED: "returned",
    Outcome.LOST: "lost",
}
"""How metrics call the outcomes."""


@attrs.frozen(kw_only=True)
class RunParts:
    """What every execution of a worker shares."""

    worker_id: str
    redis: Redis
    admission: Admission | None
    pump: ProgressPump
    metrics: WorkerMetrics
    results: ResultSettings
    outage_seconds: float
    """How long the writing of an outcome may take, an outage of Redis included."""
    max_started_attempts: int | None
    notify: Callable[[JobEvent], None] | None
    """Tells the observers; `None` where there are none, so that events cost nothing."""


class _Run:
    """The state of one run."""

    __slots__ = ("began_at", "context", "job", "stored", "use")

    def __init__(self, job: Job, stored: StoredJob, use: EngineUse) -> None:
        self.job = job
        self.stored = stored
        self.use = use
        self.began_at = anyio.current_time()
        self.context: Context | None = None

    @property
    def queue_wait(self) -> float | None:
        """How long it waited for a slot; of later attempts nobody wrote down when they were due."""
        stored = self.stored
        if stored.attempts_made:
            return None
        due_ms = stored.timestamp_ms + stored.options.delay
        return max(0.0, stored.processed_on_ms - due_ms) / 1000


class Execution:
    """Runs the jobs of one queue, one call of `run` for each."""

    def __init__(
        self,
        *,
        job_type: JobType[Any],
        express: bool,
        queue: Queue,
        keeper: Keeper,
        settler: Settler,
        parts: RunParts,
    ) -> None:
        self._type = job_type
        self._express = express
        self._queue = queue
        self._keeper = keeper
        self._settler = settler
        self._parts = parts
        self._running = parts.metrics.running(job_type.name)

    async def run(self, stored: StoredJob, token: str, *, end_by: float) -> Claim:
        """Run a claimed job to its outcome and return what its finish brought along.

        `end_by` is when a drain that has begun ends, by the loop's clock; infinite without one.
        """
        scope = JobScope()
        scope.end_by(end_by)
        self._keeper.hold(stored.id, token, scope)
        self._running.inc()
        run = _Run(self._describe(stored), stored, EngineUse())
        self._notify(run, JobStep.CLAIMED)
        try:
            verdict = await self._judge(run, scope)
            settlement = await self._settle(run, token, verdict, scope)
        finally:
            self._keeper.release(stored.id, token)
            self._running.dec()
        self._report(run, verdict, settlement.outcome)
        return settlement.following

    async def give_back(self, stored: StoredJob, token: str) -> None:
        """Return a job that was claimed and may not start."""
        await self._settler.settle(stored, token, Returned())

    def _describe(self, stored: StoredJob) -> Job:
        return Job(
            id=stored.id,
            queue=self._queue.keys.name,
            name=stored.name,
            type=self._type.name,
            attempt=stored.attempts_made + 1,
            max_attempts=max(1, stored.options.attempts),
            priority=stored.priority,
            created_ms=stored.timestamp_ms,
        )

    async def _judge(self, run: _Run, scope: JobScope) -> Verdict:
        """Run the job type and say what its end means for the job."""
        stored = run.stored
        if stored.deferred_failure is not None:
            # It stalled too often: whoever fetches it next must fail it without running it.
            return Failed(Unrecoverable(stored.deferred_failure))
        most = self._parts.max_started_attempts
        if most is not None and most < stored.attempts_started:
            # BullMQ's own words: dashboards and alerts may look for them.
            return Failed(Unrecoverable("job started more than allowable limit"))
        try:
            request, warnings = self._parse(stored)
        except InvalidRequest as error:
            return Failed(error)

        reporter = ProgressReporter(
            self._parts.pump,
            self._queue,
            stored.id,
            may_write=lambda: self._keeper.is_sure_of(stored.id),
        )
        run.context = context = Context(
            job=run.job,
            engine=self._engine(run, scope),
            redis=self._parts.redis,
            scope=scope,
            reporter=reporter,
            log_line=partial(self._queue.post_log, stored),
        )
        context.warnings.extend(warnings)
        self._notify(run, JobStep.STARTED)
        answer: object = None
        errors: list[Exception] = []
        try:
            with scope.running():
                try:
                    self._start_clock(scope, request)
                    answer = await self._type.run(request, context)
                except* Exception as group:  # noqa: BLE001  # the job boundary: judged below
                    errors.append(leading_error(group))
                    # An error of the cleanup stands for the cancel that it came from.
                    scope.note_stop()
        finally:
            reporter.close()
        match scope.reason:
            case StopReason.LOCK_LOST:
                return Lost()
            case StopReason.DRAIN:
                return Returned()
            case StopReason.DEADLINE:
                return Failed(DeadlineExceeded(f"the job did not end within {scope.limit_text}"))
            case None:
                return Failed(errors[0]) if errors else self._publish(run, answer)

    def _parse(self, stored: StoredJob) -> tuple[object, list[str]]:
        """Return the request, and a warning for each member that nobody reads."""
        if stored.faults:
            raise InvalidRequest(stored.faults)
        data = loads(stored.data)
        shape = self._type.request
        try:
            request = structure(data, shape)
        except InvalidData as error:
            raise InvalidRequest(error.faults) from None
        unknown = unknown_members(data, shape)
        warnings = [f"unknown member {name[:80]!r} was ignored" for name in unknown[:_WARNINGS]]
        if len(unknown) > _WARNINGS:
            warnings.append(f"and {len(unknown) - _WARNINGS} more unknown members")
        return request, warnings

    def _engine(self, run: _Run, scope: JobScope) -> GuardedEngine | NoEngine:
        if self._parts.admission is None:
            return NoEngine()

        def on_admitted(model: str) -> None:
            self._notify(run, JobStep.ADMITTED, model=model)

        return GuardedEngine(self._parts.admission, scope, self._express, on_admitted, run.use)

    def _start_clock(self, scope: JobScope, request: object) -> None:
        limits = [limit for limit in (self._type.timeout, self._type.timeout_of(request)) if limit]
        if limits:
            scope.limit(min(limits).total_seconds())

    def _publish(self, run: _Run, answer: object) -> Verdict:
        assert run.context is not None
        envelope = Envelope(
            type=self._type.name,
            attempt=run.job.attempt,
            worker=self._parts.worker_id,
            queue_wait=run.queue_wait,
            total=anyio.current_time() - run.began_at,
            use=run.use,
            warnings=tuple(run.context.warnings),
        )
        try:
            value = write_envelope(envelope, answer)
        except Exception as error:  # noqa: BLE001  # the answer is a plugin's: anything may be in it
            return Failed(Unrecoverable(f"the answer cannot be published: {words_of(error)}"))
        results = self._parts.results
        if len(value) <= results.inline_limit:
            return Completed(value)
        # BullMQ copies return values into its event stream: a large one makes that heavy.
        key = self._queue.keys.result(run.stored.id)
        pointer = write_pointer(envelope, key=key, size=len(value), ttl=results.ttl)
        return Completed(pointer, LargeResult(key, value, results.ttl))

    async def _settle(self, run: _Run, token: str, verdict: Verdict, scope: JobScope) -> Settlement:
        with scope.settling(self._parts.outage_seconds) as bound:
            settlement = await self._settler.settle(run.stored, token, verdict)
        if not bound.cancelled_caught:
            return settlement
        # The bound passed: the lock runs out, and another worker takes the job. Nothing may be
        # assumed to be written.
        _log.error(
            "a job's outcome could not be written; another worker will run the job",
            job_id=run.job.id,
            queue=run.job.queue,
            verdict=type(verdict).__name__.lower(),
        )
        return Settlement(Outcome.LOST, Nothing())

    def _report(self, run: _Run, verdict: Verdict, outcome: Outcome) -> None:
        seconds = anyio.current_time() - run.began_at
        use = run.use
        self._parts.metrics.job_ended(
            JobFigures(
                job_type=self._type.name,
                model=use.model_used or use.model_asked,
                answered=use.model_used is not None,
                status=_STATUS[outcome],
                seconds=seconds,
                queue_wait=run.queue_wait,
                admission=None if use.model_asked is None else use.admission_seconds,
                load=use.load_seconds,
                first_token=use.first_token_seconds,
                tokens_per_second=use.tokens_per_second,
            )
        )
        failure = None
        reason = None
        if isinstance(verdict, Failed):
            reason = reason_text(verdict.error).decode()
            failure = verdict.error.failure if isinstance(verdict.error, EngineError) else None
        _log.debug(
            "job ended",
            job_id=run.job.id,
            queue=run.job.queue,
            job_type=run.job.type,
            attempt=run.job.attempt,
            model=run.use.model_used or run.use.model_asked,
            outcome=outcome.value,
            reason=reason,
            seconds=round(seconds, 4),
        )
        self._notify(
            run, JobStep.ENDED, outcome=outcome, reason=reason, failure=failure, seconds=seconds
        )

    def _notify(
        self,
        run: _Run,
        step: JobStep,
        *,
        model: str | None = None,
        outcome: Outcome | None = None,
        reason: str | None = None,
        failure: FailureClass | None = None,
        seconds: float | None = None,
    ) -> None:
        if self._parts.notify is not None:
            self._parts.notify(
                JobEvent(
                    step=step,
                    job=run.job,
                    model=model or run.use.model_used,
                    outcome=outcome,
                    reason=reason,
                    failure=failure,
                    run_seconds=seconds,
                )
            )

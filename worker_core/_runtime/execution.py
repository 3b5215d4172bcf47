"""One job's run: parse, run in its scope, judge, settle."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import structlog
import trio

from worker_core._bullmq.calls import now_ms
from worker_core._bullmq.cancelling import CANCELLED
from worker_core._bullmq.replies import Claim
from worker_core._runtime.context import Context, Surroundings
from worker_core._runtime.envelope import Envelope, write_envelope, write_pointer
from worker_core._runtime.failure import leading_error, reason_text, words_of
from worker_core._runtime.put_back import ClaimPause, put_back
from worker_core._runtime.requests import read_request, start_clock
from worker_core._runtime.schedules import advance_scheduler
from worker_core._runtime.scope import JobScope, StopReason
from worker_core._runtime.verdict import (
    Cancelled,
    Completed,
    Delayed,
    Failed,
    HeldBack,
    LargeResult,
    Lost,
    PutBack,
    Returned,
    Settlement,
    Verdict,
    WaitsForChildren,
)
from worker_core.errors import (
    CircuitOpen,
    DeadlineExceeded,
    EngineError,
    InvalidRequest,
    Unrecoverable,
)
from worker_core.job import JobStep, JobType, Outcome
from worker_core.signals import DelayJob, GiveBack, RateLimited, WaitForChildren
from worker_core.strict_json import loads

if TYPE_CHECKING:
    from worker_core._bullmq.job import StoredJob
    from worker_core._observe.metrics import WorkerMetrics
    from worker_core._runtime.cancels import Cancels
    from worker_core._runtime.settlement import Settler
    from worker_core.config import ResultSettings

__all__ = ["Execution", "Run", "RunParts"]

_log = structlog.get_logger("worker_core.job")

_GIVEN_BACK_EARLY_MS = 1000
"""How long a job waits that was given back by a worker that goes on."""

_STATUS = {
    Outcome.COMPLETED: "success",
    Outcome.FAILED: "error",
    Outcome.RETRIED: "retried",
    Outcome.DELAYED: "delayed",
    Outcome.WAITING_CHILDREN: "waiting_children",
    Outcome.RATE_LIMITED: "rate_limited",
    Outcome.RETURNED: "returned",
    Outcome.CANCELLED: "cancelled",
    Outcome.LOST: "lost",
}
"""How metrics call the outcomes."""


@attrs.frozen(kw_only=True)
class RunParts:
    """What every execution of a worker shares."""

    worker_id: str
    metrics: WorkerMetrics
    results: ResultSettings
    outage_seconds: float
    """How long the writing of an outcome may take, an outage of Redis included."""
    max_circuit_wait: timedelta
    """How long an attempt may be put back while no circuit lets it through."""
    max_started_attempts: int | None
    log_each_job: bool
    """Whether anybody reads a line for each job; making one costs more than a quick job."""


class Execution:
    """Runs the jobs of one queue: `begin` for each."""

    def __init__(
        self,
        *,
        job_type: JobType[Any],
        around: Surroundings,
        settler: Settler,
        cancels: Cancels,
        parts: RunParts,
    ) -> None:
        self._type = job_type
        self._around = around
        self._keeper = around.keeper
        self.settler = settler
        self._cancels = cancels
        self._wished = cancels.wished
        self._parts = parts
        self._observed = around.notify is not None
        asks = type(job_type).timeout_of is not JobType.timeout_of
        self._has_clock = asks or job_type.timeout is not None
        self._has_tenants = type(job_type).tenant_of is not JobType.tenant_of
        self.outage_seconds = parts.outage_seconds
        """How long the writing of an outcome may take."""
        admission = around.admission
        self.pause = ClaimPause(lambda: 0 if admission is None else admission.closings)
        """When the consumer of these jobs is to claim nothing."""
        self._running = 0
        parts.metrics.watch_running(job_type.name, lambda: self._running)

    def begin(
        self, stored: StoredJob, token: str, shield: trio.CancelScope, *, end_by: float
    ) -> Run:
        """Hold a claimed job's lock and return its run, to be carried out within `shield`.

        `end_by` is when a drain that has begun ends, by the loop's clock; infinite without one.
        """
        scope = JobScope(shield)
        scope.end_by(end_by)
        now = trio.current_time()
        self._keeper.hold(stored.id, token, scope, now)
        self._running += 1
        context = Context(self._around, stored, scope, now, token)
        if self._observed:
            context.tell(JobStep.CLAIMED)
        return Run(self, context, scope, token)

    async def give_back(self, stored: StoredJob, token: str) -> None:
        """Return a job that was claimed and may not start."""
        await self.settler.settle(stored, token, Returned())

    def end(self, run: Run, verdict: Verdict, settlement: Settlement) -> None:
        """Let the lock of a job go whose outcome is written, and report it."""
        self.release(run)
        stored = run.context.stored
        if stored.id in self._wished:
            self._cancels.ended(stored, settlement.outcome)
        if isinstance(verdict, PutBack):
            self.pause.note_put_back(verdict.error, trio.current_time())
        else:
            self.pause.note_other()
        self._report(run.context, verdict, settlement.outcome)

    def release(self, run: Run) -> None:
        """Let a job's lock go."""
        self._keeper.release(run.context.stored.id, run.token)
        self._running -= 1

    async def advance(self, stored: StoredJob) -> None:
        """Let the scheduler go on that a job is from; done twice is done once."""
        await advance_scheduler(self._around.queue, stored, within=self.outage_seconds)

    async def judge(self, context: Context, scope: JobScope) -> Verdict:
        """Run the job type and say what its end means for the job."""
        stored = context.stored
        if stored.scheduler_id is not None:
            await self.advance(stored)
        if stored.id in self._wished and await self._cancels.confirms(stored):
            return Cancelled()
        if stored.deferred_failure is not None:
            # It stalled too often: whoever fetches it next must fail it without running it.
            return Failed(Unrecoverable(stored.deferred_failure))
        most = self._parts.max_started_attempts
        if most is not None and most < stored.attempts_started:
            # BullMQ's own words: dashboards and alerts may look for them.
            return Failed(Unrecoverable("job started more than allowable limit"))
        try:
            request = self._parse(context)
        except InvalidRequest as error:
            return Failed(error)
        if self._observed:
            context.tell(JobStep.STARTED)
        answer: object = None
        failure: Exception | None = None
        try:
            if self._has_tenants:
                context.tenant = self._type.tenant_of(request)
            if self._has_clock:
                start_clock(self._type, scope, request)
            answer = await self._type.run(request, context)
        except* Exception as group:  # noqa: BLE001  # the job boundary: judged below
            failure = leading_error(group)
            # An error of the cleanup stands for the cancel that it came from.
            scope.note_stop()
        finally:
            context.end()
        if scope.reason is not None:
            return _stopped(scope)
        if isinstance(failure, CircuitOpen):
            return put_back(failure, stored, longest=self._parts.max_circuit_wait, now_ms=now_ms())
        return self._publish(context, answer) if failure is None else _verdict_on(failure, scope)

    def _parse(self, context: Context) -> object:
        """Return the request; a member that nobody reads becomes a warning."""
        stored = context.stored
        if stored.faults:
            raise InvalidRequest(stored.faults)
        return read_request(loads(stored.data), self._type.request, context.warn)

    def _publish(self, context: Context, answer: object) -> Verdict:
        stored = context.stored
        envelope = Envelope(
            type=self._type.name,
            attempt=stored.attempts_made + 1,
            worker=self._parts.worker_id,
            queue_wait=context.queue_wait,
            total=trio.current_time() - context.began_at,
            use=context.use,
            warnings=context.warnings,
        )
        try:
            value = write_envelope(envelope, answer)
        except Exception as error:  # noqa: BLE001  # the answer is a plugin's: anything may be in it
            return Failed(Unrecoverable(f"the answer cannot be published: {words_of(error)}"))
        results = self._parts.results
        if len(value) <= results.inline_limit:
            return Completed(value)
        # BullMQ copies return values into its event stream: a large one makes that heavy.
        key = self._around.queue.keys.result(stored.id)
        pointer = write_pointer(envelope, key=key, size=len(value), ttl=results.ttl)
        return Completed(pointer, LargeResult(key, value, results.ttl))

    def _report(self, context: Context, verdict: Verdict, outcome: Outcome) -> None:
        seconds = trio.current_time() - context.began_at
        engine = None if context.use is None else context.use.figures()
        self._parts.metrics.job_ended(_STATUS[outcome], seconds, context.queue_wait, engine)
        if self._observed or self._parts.log_each_job:
            self._describe_end(context, verdict, outcome, seconds)

    def _describe_end(
        self, context: Context, verdict: Verdict, outcome: Outcome, seconds: float
    ) -> None:
        failure = None
        reason = None
        if isinstance(verdict, Failed | PutBack):
            reason = reason_text(verdict.error).decode()
            failure = verdict.error.failure if isinstance(verdict.error, EngineError) else None
        elif isinstance(verdict, Cancelled):
            reason = CANCELLED.decode()
        job, use = context.job, context.use
        _log.debug(
            "job ended",
            job_id=job.id,
            queue=job.queue,
            job_type=job.type,
            attempt=job.attempt,
            model=None if use is None else use.model_used or use.model_asked,
            outcome=outcome.value,
            reason=reason,
            seconds=round(seconds, 4),
        )
        if self._observed:
            context.tell(
                JobStep.ENDED, outcome=outcome, reason=reason, failure=failure, run_seconds=seconds
            )


class Run:
    """One job's run: `carry_out`, and `settle_late` where it was stopped before its end."""

    __slots__ = ("_ended", "_execution", "_scope", "_verdict", "context", "token")

    def __init__(self, execution: Execution, context: Context, scope: JobScope, token: str) -> None:
        self._execution = execution
        self._scope = scope
        self._verdict: Verdict | None = None
        self._ended = False
        self.context = context
        self.token = token

    async def carry_out(self) -> Claim | None:
        """Run the job to its outcome and return what its finish brought along.

        Where something stops it, that is `None`, or the shield is left early.
        """
        execution = self._execution
        self._verdict = verdict = await execution.judge(self.context, self._scope)
        if not self._scope.settle_within(execution.outage_seconds):
            return None
        settlement = await execution.settler.settle(
            self.context.stored, self.token, verdict, self.context.announce
        )
        self._scope.end()
        return self._end(verdict, settlement)

    async def settle_late(self) -> Claim:
        """Settle a job whose run was stopped, or give up where its settlement was, by its bound."""
        scope = self._scope
        scope.note_stop()
        verdict = _stopped(scope) if self._verdict is None else self._verdict
        settlement: Settlement | None = None
        if not scope.is_settling:
            with scope.settling(self._execution.outage_seconds):
                stored = self.context.stored
                if isinstance(verdict, Cancelled) and stored.scheduler_id is not None:
                    # It may have been stopped just before that, and will not be run again.
                    await self._execution.advance(stored)
                settlement = await self._execution.settler.settle(
                    stored, self.token, verdict, self.context.announce
                )
        if settlement is None:
            # The lock runs out, and another worker takes the job. Nothing may be assumed to be
            # written.
            _log.error(
                "a job's outcome could not be written; another worker will run the job",
                job_id=self.context.stored.id,
                queue=self.context.job.queue,
                verdict=type(verdict).__name__.lower(),
            )
            settlement = Settlement(Outcome.LOST)
        return self._end(verdict, settlement)

    def abandon(self) -> None:
        """Let the job's lock go where the run crashed; a run that has ended is left alone."""
        if not self._ended:
            self._ended = True
            self._execution.release(self)

    def _end(self, verdict: Verdict, settlement: Settlement) -> Claim:
        self._ended = True
        self._execution.end(self, verdict, settlement)
        return settlement.following


def _stopped(scope: JobScope) -> Verdict:
    """Say what it means for a job that its run was stopped."""
    match scope.reason:
        case StopReason.LOCK_LOST:
            return Lost()
        case StopReason.DRAIN:
            return Returned()
        case StopReason.CANCELLED:
            return Cancelled()
        case StopReason.DEADLINE:
            return Failed(DeadlineExceeded(f"the job did not end within {scope.limit_text}"))
        case None:
            raise AssertionError("the run was left, and nothing stopped it")


def _verdict_on(error: Exception, scope: JobScope) -> Verdict:
    """Say what it means for a job what its job type has raised."""
    match error:
        case DelayJob():
            return Delayed(error.delay // timedelta(milliseconds=1))
        case GiveBack():
            # Where nothing stops, it would be claimed again at once, and given back, for ever.
            return Returned() if scope.is_draining else Delayed(_GIVEN_BACK_EARLY_MS)
        case WaitForChildren():
            return WaitsForChildren()
        case RateLimited():
            return HeldBack(error.duration // timedelta(milliseconds=1))
        case _:
            return Failed(error)

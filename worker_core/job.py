"""Jobs, and what a plugin provides to run them."""

from __future__ import annotations

import abc
import enum
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from structlog.typing import FilteringBoundLogger

    from worker_core.children import ChildJobs
    from worker_core.circuit import CircuitChange
    from worker_core.engine import (
        ChatAnswer,
        ChatCall,
        ChatChunk,
        EmbedAnswer,
        EmbedCall,
        EngineProgress,
    )
    from worker_core.errors import FailureClass
    from worker_core.inner import InnerResult, InnerTypes
    from worker_core.redis import Redis

__all__ = [
    "EngineCalls",
    "Job",
    "JobContext",
    "JobEvent",
    "JobStep",
    "JobType",
    "Outcome",
    "QueueSpec",
    "RateLimit",
]

RequestT = TypeVar("RequestT")


class Outcome(enum.Enum):
    """How a run of a job ended. More may come: match with a default."""

    COMPLETED = "completed"
    FAILED = "failed"
    """For good: no attempt is left, or another would not help."""
    RETRIED = "retried"
    """It failed and waits for its next attempt."""
    DELAYED = "delayed"
    """Its job type put it off: it runs again later, no attempt spent."""
    WAITING_CHILDREN = "waiting_children"
    """It waits for its children, and runs again when they have ended; no attempt spent."""
    RATE_LIMITED = "rate_limited"
    """Its job type held the queue back: it is at the head of it again, no attempt spent."""
    RETURNED = "returned"
    """The worker stopped: the job is back in its queue, no attempt spent."""
    CANCELLED = "cancelled"
    """Somebody cancelled it: it has failed for good, with that reason."""
    LOST = "lost"
    """Its lock was lost, so it belongs to another worker: nothing was written."""


def _check_queue_name(_: object, field: attrs.Attribute[str], value: str) -> None:
    # BullMQ refuses the same: the colon separates the parts of its keys.
    if not value or ":" in value:
        raise ValueError(f"'{field.name}' must not be empty or hold a colon: {value!r}")


def _check_duration(_: object, field: attrs.Attribute[timedelta], value: timedelta) -> None:
    if not timedelta(milliseconds=1) <= value <= timedelta(days=365):
        raise ValueError(f"'{field.name}' must be from a millisecond to a year")


@attrs.frozen(kw_only=True)
class RateLimit:
    """At most `max` jobs begin in each `duration`, counted over all workers that have a limit."""

    max: int = attrs.field(validator=attrs.validators.ge(1))
    duration: timedelta = attrs.field(validator=_check_duration)


@attrs.frozen
class QueueSpec:
    """One queue that feeds a job type, and its slots; `concurrency` is the worker's by default."""

    name: str = attrs.field(validator=_check_queue_name)
    concurrency: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )
    express: bool = False
    """Whether its jobs are admitted to a host before others."""
    limit: RateLimit | None = None
    """How many of its jobs may begin in a time; a limit of the queue itself goes before it."""


@attrs.frozen(kw_only=True)
class Job:
    """A job as its job type sees it; the request is handed over beside it."""

    id: str
    queue: str
    name: str
    """The name that the producer gave it."""
    type: str
    """The job type that runs it."""
    attempt: int
    """1 for the first."""
    max_attempts: int
    priority: int
    created_ms: int
    """When it was added, in milliseconds since the epoch, by the producer's clock."""
    telemetry: str | None = None
    """The trace that its producer was in (BullMQ's `telemetry.metadata`), as the producer wrote it."""

    @property
    def created_at(self) -> datetime:
        """When it was added."""
        return datetime.fromtimestamp(self.created_ms / 1000, UTC)


class EngineCalls(Protocol):
    """The engine as a job sees it: admitted, timed and retried.

    Raises `EngineError`, and nothing else. May be called from any task while the worker runs; a
    call ends with the task that made it, not with the job that it was made for.
    """

    async def chat(
        self,
        call: ChatCall,
        *,
        on_progress: Callable[[EngineProgress], None] | None = None,
        on_chunk: Callable[[ChatChunk], None] | None = None,
    ) -> ChatAnswer:
        """Wait for the model and a place, and generate an answer.

        `on_progress` is called at each phase and with each piece of the answer, `on_chunk` with the
        pieces themselves: each of them once, also where the call is made again. Where a fallback
        answers after pieces have come, one with `restart` says that they do not count. Neither
        may block.
        """
        ...

    async def embed(
        self, call: EmbedCall, *, together_with: Sequence[JobContext] = ()
    ) -> EmbedAnswer:
        """Wait for the model and a place, and compute the vectors.

        A call for several jobs names in `together_with` the job of each input, in the order of the
        inputs. During admission the clocks of all of them stand still, and each gets its share of
        the tokens. On each host one model computes vectors for one call at a time.
        """
        ...

    def waiting(self, model: str) -> AbstractContextManager[None]:
        """Wait in the body for a call that another task makes for this job among others.

        Such a wait belongs to admission: the job's clock stands still until the call that names it
        in `together_with` asks to be admitted. `EngineError` after `worker.max_wait` without one.
        """
        ...


class JobContext(Protocol):
    """What a job type is handed with each request."""

    @property
    def job(self) -> Job:
        """The job that runs."""
        ...

    @property
    def tenant(self) -> str | None:
        """Whom the job is for, as its type's `tenant_of` says."""
        ...

    @property
    def engine(self) -> EngineCalls:
        """What runs models; `EngineError` where the worker has no engine."""
        ...

    @property
    def redis(self) -> Redis:
        """The worker's own connection, for commands and scripts."""
        ...

    @property
    def children(self) -> ChildJobs:
        """The jobs that this one waits for; asked for when they are asked for, never before."""
        ...

    @property
    def types(self) -> InnerTypes:
        """The worker's other job types, for `run`."""
        ...

    async def run(self, job_type: str, data: object, *, share: float = 1.0) -> InnerResult:
        """Let another job type answer, within this run: `data` is what a job of its own would have.

        The inner run has the clocks, the admission and the engine of such a job, and ends with this
        one; what it publishes of its progress is dropped. Inner runs with a `share` under 1 give
        way: together they hold at most that share of a host's places while others wait.

        Raises `InvalidRequest`, also for a type that is not there; `DeadlineExceeded` when the
        other type's time runs out; and what that type raises. One that asks to be run again later
        ends with `Unrecoverable`.
        """
        ...

    @property
    def is_draining(self) -> bool:
        """Whether the worker stops: a long job may end early then, by `GiveBack`."""
        ...

    @property
    def log(self) -> FilteringBoundLogger:
        """A logger with job, queue and attempt bound."""
        ...

    @property
    def time_left(self) -> timedelta | None:
        """How long the job may still run; `None` without a limit. Stands still during admission."""
        ...

    def progress(self, value: object) -> None:
        """Publish how far the job is (any JSON); sent at most twice a second, the newest wins."""
        ...

    def emit(self, piece: str | ChatChunk) -> None:
        """Add a piece of the answer to the job's token stream, for readers that wait for it.

        The first call begins the stream, an empty piece too; it ends with the job's run. Pieces are
        put together, so that at most 20 entries a second are written, or one for 64 pieces.
        """
        ...

    def note(self, line: str) -> None:
        """Add a line to the job's own log, which BullMQ's dashboards show."""
        ...

    def warn(self, text: str) -> None:
        """Add a warning to the result envelope."""
        ...


class JobType(abc.ABC, Generic[RequestT]):
    """How to run the jobs of some queues.

    Entered by the worker before the first job and left after the last one, so that a job type may
    own tasks and connections; override `__aenter__` and `__aexit__` for that.
    """

    name: ClassVar[str]
    """Names it in settings, results, logs and metrics."""
    request: ClassVar[type[Any]]
    """The attrs class that a job's data is structured to."""
    timeout: timedelta | None = None
    """How long a job may run once admitted; a job may ask for less by `timeout_of`."""
    needs_engine: ClassVar[bool] = True
    """Whether it cannot work without an engine; then the worker refuses to start without one."""

    @property
    @abc.abstractmethod
    def queues(self) -> Sequence[QueueSpec]:
        """The queues that feed it; fixed while the worker runs."""

    @abc.abstractmethod
    async def run(self, request: RequestT, context: JobContext) -> object:
        """Answer one request; the value becomes `answer` in the result envelope.

        Return what JSON can carry, or an attrs instance. Raise `InvalidRequest` or
        `Unrecoverable` to fail at once, a signal such as `DelayJob` to be run again later; anything else is retried as the job's options say.
        """

    def timeout_of(self, request: RequestT) -> timedelta | None:  # noqa: ARG002  # for overriding
        """Return how long this request may run; never more than `timeout` counts."""
        return self.timeout

    def tenant_of(self, request: RequestT) -> str | None:  # noqa: ARG002  # for overriding
        """Return whom a request is for, where requests are for several who share nothing.

        Fallback strategies that keep answers keep them apart by it; a run within another job is
        for that job's tenant where it names none. `worker_core.request_fields.tenant_in` reads
        the common `metadata.tenant`.
        """
        return None

    def nothing_waits(self, queue: str) -> None:
        """Learn that a queue has answered that no job waits in it; called each time, must be cheap.

        Whoever collects jobs to run them together need not wait for more from there.
        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class JobStep(enum.Enum):
    """A moment in a job's life that observers are told of."""

    CLAIMED = "claimed"
    STARTED = "started"
    """Its data has been read; its job type runs."""
    ADMITTED = "admitted"
    """Its model is loaded and it has a place on a host."""
    CIRCUIT_CHANGED = "circuit_changed"
    """What it asked of the engine has opened a circuit, or closed one."""
    ENDED = "ended"


@attrs.frozen(kw_only=True)
class JobEvent:
    """One step of one job, for `worker_core_job_event`."""

    step: JobStep
    job: Job
    model: str | None = None
    outcome: Outcome | None = None
    """With `ENDED`."""
    reason: str | None = None
    """Why it did not complete."""
    failure: FailureClass | None = None
    """How the engine failed, where it was the engine."""
    run_seconds: float | None = None
    """With `ENDED`: from claim to end."""
    circuit: CircuitChange | None = None
    """With `CIRCUIT_CHANGED`: which, and what it is now."""

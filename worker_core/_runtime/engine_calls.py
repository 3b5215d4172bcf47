"""Engine calls: admitted, timed, retried before the first token, measured.

A call is made for one job, or for several that share it: then the clocks of all of them stand
still during admission, and each is told what it used.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, contextmanager, nullcontext
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, TypeVar, cast

import anyio
import attrs

from worker_core._observe.metrics import EngineFigures
from worker_core._runtime.admission import Admission, AdmissionTimeout, Entry
from worker_core.engine import (
    ChatAnswer,
    ChatCall,
    ChatChunk,
    EmbedAnswer,
    EmbedCall,
    EngineProgress,
    HostLimits,
    Operation,
    Phase,
)
from worker_core.errors import EngineError, FailureClass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from worker_core._runtime.scope import JobScope
    from worker_core.engine import Host
    from worker_core.job import JobContext

__all__ = ["EngineUse", "GuardedEngine", "NoEngine", "shared_out"]

AnswerT = TypeVar("AnswerT", ChatAnswer, EmbedAnswer)

_FIRST_BACKOFF_SECONDS = 0.25
_LONGEST_BACKOFF_SECONDS = 4.0
_UNLOADING: tuple[object, ...] = (0, "0", "0s", "0m")
"""What a call says by which the host unloads the model behind it."""

_RETRIED = frozenset({FailureClass.BUSY, FailureClass.UNREACHABLE, FailureClass.CRASHED})
"""What may pass in a moment. A time-out is not among them: it took the time that a retry needs."""


@attrs.define
class EngineUse:
    """What a job used of the engine; the envelope and the metrics are made of it. Seconds."""

    model_asked: str | None = None
    model_used: str | None = None
    admission_seconds: float = 0.0
    load_seconds: float | None = None
    first_token_seconds: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens_per_second: float | None = None
    warnings: list[str] = attrs.field(factory=list)

    def figures(self) -> EngineFigures | None:
        """Return what is measured of it; `None` where the engine was asked for nothing."""
        if self.model_asked is None:
            return None
        return EngineFigures(
            model=self.model_used or self.model_asked,
            answered=self.model_used is not None,
            admission=self.admission_seconds,
            load=self.load_seconds,
            first_token=self.first_token_seconds,
            tokens_per_second=self.tokens_per_second,
        )


class _Clock:
    """The clocks of one call: first token, between tokens, total. Each piece is a sign of life.

    The deadline in force carries the words for what it waits for, so the failure need not guess.
    """

    def __init__(self) -> None:
        self._limits = HostLimits()
        self._scope = anyio.CancelScope()
        self._ends_at = math.inf
        self._waiting_for = ""
        self.began_at = 0.0
        self.first_at: float | None = None

    @contextmanager
    def running(self, host: Host, operation: Operation) -> Iterator[None]:
        self._limits = host.limits
        self.began_at = anyio.current_time()
        self._ends_at = self.began_at + self._limits.total_timeout.total_seconds()
        # Vectors come all at once: only the whole has a clock there.
        first = math.inf if operation is Operation.EMBED else self._first_token_seconds
        self._expect("first token", first)
        with self._scope:
            yield
        if self._scope.cancelled_caught:
            raise EngineError(FailureClass.TIMEOUT, f"{host.name} gave no {self._waiting_for}")

    @property
    def _first_token_seconds(self) -> float:
        return self._limits.first_token_timeout.total_seconds()

    def beat(self) -> None:
        """Note a sign of life."""
        if self.first_at is None:
            self.first_at = anyio.current_time()
        self._expect("next token", self._limits.between_tokens_timeout.total_seconds())

    def _expect(self, what: str, seconds: float) -> None:
        at = anyio.current_time() + seconds
        if at < self._ends_at:
            self._scope.deadline, self._waiting_for = at, f"{what} within {seconds:g} s"
        else:
            total = self._limits.total_timeout.total_seconds()
            self._scope.deadline, self._waiting_for = self._ends_at, f"whole answer in {total:g} s"


class _Line:
    """A job's wait for a call that another task makes for it; part of its admission."""

    def __init__(self, scope: JobScope, use: EngineUse, max_wait_seconds: float) -> None:
        self._use = use
        self._since = anyio.current_time()
        self._paused = ExitStack()
        self._paused.enter_context(scope.paused())
        self.bound = anyio.CancelScope(deadline=self._since + max_wait_seconds)
        self._over = False

    def leave(self) -> None:
        """Let the job's clock go on, and the wait be as long as it likes; again changes nothing."""
        if not self._over:
            self._over = True
            self._use.admission_seconds += anyio.current_time() - self._since
            self.bound.deadline = math.inf
            self._paused.close()


@attrs.define
class GuardedEngine:
    """`JobContext.engine`: what `worker_core.job.EngineCalls` promises."""

    _admission: Admission
    scope: JobScope
    express: bool
    _on_admitted: Callable[[str], None]
    use: EngineUse
    share: float = 1.0
    """How much of a host's places those who give way may hold while others wait; 1 for others."""
    _line: _Line | None = attrs.field(default=None, init=False)

    async def chat(
        self,
        call: ChatCall,
        *,
        on_progress: Callable[[EngineProgress], None] | None = None,
        on_chunk: Callable[[ChatChunk], None] | None = None,
    ) -> ChatAnswer:
        """Wait for the model and a place, and generate an answer."""
        report = on_progress or _ignore
        tokens = 0

        async def attempt(host: Host, clock: _Clock) -> ChatAnswer:
            def take(chunk: ChatChunk) -> None:
                nonlocal tokens
                tokens += 1
                clock.beat()
                report(EngineProgress(Phase.GENERATING, tokens))
                if on_chunk is not None:
                    on_chunk(chunk)

            report(EngineProgress(Phase.GENERATING))
            return await host.chat(call, take)

        entry = self._entry(call, Operation.CHAT, report)
        answer = await self._call(entry, attempt, [self])
        self.use.prompt_tokens += answer.prompt_eval_count or 0
        self.use.completion_tokens += answer.eval_count or 0
        if answer.eval_count and answer.eval_duration:
            self.use.tokens_per_second = answer.eval_count / (answer.eval_duration / 1e9)
        return answer

    async def embed(
        self, call: EmbedCall, *, together_with: Sequence[JobContext] = ()
    ) -> EmbedAnswer:
        """Wait for the model and a place, and compute the vectors."""
        owners = _owners(call, together_with) or [self] * len(call.input)

        async def attempt(host: Host, _: _Clock) -> EmbedAnswer:
            return await host.embed(call)

        jobs = list({id(owner): owner for owner in owners}.values()) or [self]
        entry = self._entry(call, Operation.EMBED, _ignore)
        entry = attrs.evolve(
            entry,
            express=any(job.express for job in jobs),
            share=max(job.share for job in jobs),
        )
        answer = await self._call(entry, attempt, jobs)
        tokens = shared_out(answer.prompt_eval_count or 0, [len(text) for text in call.input])
        for owner, share in zip(owners, tokens, strict=True):
            owner.use.prompt_tokens += share
        return answer

    @contextmanager
    def waiting(self, model: str) -> Iterator[None]:
        """Wait in the body for a call that another task makes for this job among others."""
        seconds = self._admission.max_wait.total_seconds()
        self._line = line = _Line(self.scope, self.use, seconds)
        try:
            with line.bound:
                yield
        finally:
            line.leave()
        if line.bound.cancelled_caught:
            raise AdmissionTimeout(
                FailureClass.BUSY,
                f"no call of model {model!r} began within {seconds:g} s (worker.max_wait)",
            )

    def leave_line(self) -> None:
        """Wait for a call no more: one that is made for the job asks to be admitted."""
        if self._line is not None:
            self._line.leave()

    def _entry(
        self,
        call: ChatCall | EmbedCall,
        operation: Operation,
        report: Callable[[EngineProgress], None],
    ) -> Entry:
        return Entry(
            model=call.model,
            operation=operation,
            express=self.express,
            share=self.share,
            on_phase=lambda phase: report(EngineProgress(phase)),
            stays_loaded=call.keep_alive not in _UNLOADING,
        )

    async def _call(
        self,
        entry: Entry,
        attempt: Callable[[Host, _Clock], Awaitable[AnswerT]],
        jobs: Sequence[GuardedEngine],
    ) -> AnswerT:
        """Make the call, again where it failed before its first token, within the jobs' time."""
        for job in jobs:
            job.use.model_asked = job.use.model_asked or entry.model
        failures = 0
        while True:
            clock = _Clock()
            try:
                return await self._attempt(entry, attempt, clock, jobs)
            except EngineError as error:
                if (
                    failures >= self._admission.max_retries
                    or clock.first_at is not None
                    or not _may_pass(error)
                ):
                    raise
                failures += 1
            ceiling = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0**failures)
            await anyio.sleep(random.uniform(ceiling / 2, ceiling))  # noqa: S311  # jitter, no secret

    async def _attempt(
        self,
        entry: Entry,
        attempt: Callable[[Host, _Clock], Awaitable[AnswerT]],
        clock: _Clock,
        jobs: Sequence[GuardedEngine],
    ) -> AnswerT:
        async with AsyncExitStack() as stack:
            with _waiting(jobs):
                admitted = await stack.enter_async_context(self._admission.admit(entry))
            host = admitted.host
            for job in jobs:
                job.note_admission(entry.model, admitted.load_seconds)
            try:
                with clock.running(host, entry.operation):
                    answer = await attempt(host, clock)
            except EngineError:
                self._admission.failed(host, entry)
                raise
            self._admission.succeeded(host, entry)
        for job in jobs:
            job.note_answer(entry, answer, clock)
        return answer

    def note_admission(self, model: str, load_seconds: float | None) -> None:
        """Note that a call for the job has its model and its place."""
        self._note_load(load_seconds)
        # A job that shares a call may have gone: whoever watches it has been told of its end.
        if self.scope.reason is None and not self.scope.is_settling:
            self._on_admitted(model)

    def _note_load(self, seconds: float | None) -> None:
        """Add up loads: those that admission waited for, and what the engine tells of its own."""
        if seconds is not None:
            self.use.load_seconds = (self.use.load_seconds or 0.0) + seconds

    def note_answer(self, entry: Entry, answer: ChatAnswer | EmbedAnswer, clock: _Clock) -> None:
        """Note what a call for the job was answered with, but for its tokens."""
        use = self.use
        use.model_used = answer.model or entry.model
        use.warnings.extend(answer.warnings)
        if answer.load_duration is not None:
            self._note_load(answer.load_duration / 1e9)
        if use.first_token_seconds is None and clock.first_at is not None:
            use.first_token_seconds = clock.first_at - clock.began_at


@contextmanager
def _waiting(jobs: Sequence[GuardedEngine]) -> Iterator[None]:
    """Wait for admission in the body: the jobs' clocks cover what follows it, and stand still."""
    asked_at = anyio.current_time()
    with ExitStack() as paused:
        for job in jobs:
            paused.enter_context(job.scope.paused())
            job.leave_line()
        try:
            yield
        finally:
            for job in jobs:
                job.use.admission_seconds += anyio.current_time() - asked_at


def _owners(call: EmbedCall, together_with: Sequence[JobContext]) -> list[GuardedEngine]:
    """Return the engine of each input's job."""
    if together_with and len(together_with) != len(call.input):
        raise ValueError(
            f"together_with names the job of each input: {len(together_with)} for {len(call.input)}"
        )
    owners = [context.engine for context in together_with]
    assert all(isinstance(owner, GuardedEngine) for owner in owners), "jobs of another worker"
    return cast("list[GuardedEngine]", owners)


def shared_out(total: int, sizes: Sequence[int]) -> list[int]:
    """Share out a total by size, so that the shares add up to it."""
    # At least one each: also nothing has a start and an end that the model reads.
    bounds = [0, *accumulate(max(size, 1) for size in sizes)]
    return [
        total * end // bounds[-1] - total * begin // bounds[-1] for begin, end in pairwise(bounds)
    ]


def _may_pass(error: EngineError) -> bool:
    """Tell whether the same call may do better in a moment."""
    return error.failure in _RETRIED and not isinstance(error, AdmissionTimeout)


class NoEngine:
    """`JobContext.engine` of a worker without an engine."""

    def waiting(self, model: str) -> AbstractContextManager[None]:  # noqa: ARG002  # the protocol's
        """Do nothing: whatever is waited for fails at once."""
        return nullcontext()

    async def chat(
        self,
        call: ChatCall,
        *,
        on_progress: Callable[[EngineProgress], None] | None = None,  # noqa: ARG002  # the protocol's
        on_chunk: Callable[[ChatChunk], None] | None = None,  # noqa: ARG002  # the protocol's
    ) -> ChatAnswer:
        """Raise `EngineError`."""
        raise _no_engine(call.model)

    async def embed(
        self,
        call: EmbedCall,
        *,
        together_with: Sequence[JobContext] = (),  # noqa: ARG002  # the protocol's
    ) -> EmbedAnswer:
        """Raise `EngineError`."""
        raise _no_engine(call.model)


def _no_engine(model: str) -> EngineError:
    return EngineError(
        FailureClass.UNREACHABLE,
        f"nothing runs {model!r}: this worker has no engine; set [worker] engine, or --engine",
    )


def _ignore(_: EngineProgress) -> None:
    return None

"""Engine calls of one job: admitted, timed, retried before the first token, measured."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio
import attrs

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
    from collections.abc import Iterator

    from worker_core._runtime.scope import JobScope
    from worker_core.engine import Host

__all__ = ["EngineUse", "GuardedEngine", "NoEngine"]

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


@attrs.define
class GuardedEngine:
    """`JobContext.engine`: what `worker_core.job.EngineCalls` promises."""

    _admission: Admission
    _scope: JobScope
    _express: bool
    _on_admitted: Callable[[str], None]
    use: EngineUse

    async def chat(
        self, call: ChatCall, *, on_progress: Callable[[EngineProgress], None] | None = None
    ) -> ChatAnswer:
        """Wait for the model and a place, and generate an answer."""
        report = on_progress or _ignore
        tokens = 0

        async def attempt(host: Host, clock: _Clock) -> ChatAnswer:
            def on_chunk(_: ChatChunk) -> None:
                nonlocal tokens
                tokens += 1
                clock.beat()
                report(EngineProgress(Phase.GENERATING, tokens))

            report(EngineProgress(Phase.GENERATING))
            return await host.chat(call, on_chunk)

        entry = self._entry(call, Operation.CHAT, report)
        answer = await self._call(entry, attempt)
        self.use.completion_tokens += answer.eval_count or 0
        if answer.eval_count and answer.eval_duration:
            self.use.tokens_per_second = answer.eval_count / (answer.eval_duration / 1e9)
        return answer

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Wait for the model and a place, and compute the vectors."""

        async def attempt(host: Host, _: _Clock) -> EmbedAnswer:
            return await host.embed(call)

        return await self._call(self._entry(call, Operation.EMBED, _ignore), attempt)

    def _entry(
        self,
        call: ChatCall | EmbedCall,
        operation: Operation,
        report: Callable[[EngineProgress], None],
    ) -> Entry:
        return Entry(
            model=call.model,
            operation=operation,
            express=self._express,
            on_phase=lambda phase: report(EngineProgress(phase)),
            stays_loaded=call.keep_alive not in _UNLOADING,
        )

    async def _call(
        self, entry: Entry, attempt: Callable[[Host, _Clock], Awaitable[AnswerT]]
    ) -> AnswerT:
        """Make the call, again where it failed before its first token, within the job's time."""
        self.use.model_asked = self.use.model_asked or entry.model
        failures = 0
        while True:
            clock = _Clock()
            try:
                return await self._attempt(entry, attempt, clock)
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
    ) -> AnswerT:
        asked_at = anyio.current_time()
        async with AsyncExitStack() as stack:
            # The job's own clock covers what follows admission, so it stands still during it.
            try:
                with self._scope.paused():
                    admitted = await stack.enter_async_context(self._admission.admit(entry))
            finally:
                self.use.admission_seconds += anyio.current_time() - asked_at
            host = admitted.host
            self._note_load(admitted.load_seconds)
            self._on_admitted(entry.model)
            try:
                with clock.running(host, entry.operation):
                    answer = await attempt(host, clock)
            except EngineError:
                self._admission.failed(host, entry)
                raise
            self._admission.succeeded(host, entry)
        self._note(entry, answer, clock)
        return answer

    def _note_load(self, seconds: float | None) -> None:
        """Add up loads: those that admission waited for, and what the engine tells of its own."""
        if seconds is not None:
            self.use.load_seconds = (self.use.load_seconds or 0.0) + seconds

    def _note(self, entry: Entry, answer: ChatAnswer | EmbedAnswer, clock: _Clock) -> None:
        use = self.use
        use.model_used = answer.model or entry.model
        use.prompt_tokens += answer.prompt_eval_count or 0
        use.warnings.extend(answer.warnings)
        if answer.load_duration is not None:
            self._note_load(answer.load_duration / 1e9)
        if use.first_token_seconds is None and clock.first_at is not None:
            use.first_token_seconds = clock.first_at - clock.began_at


def _may_pass(error: EngineError) -> bool:
    """Tell whether the same call may do better in a moment."""
    return error.failure in _RETRIED and not isinstance(error, AdmissionTimeout)


class NoEngine:
    """`JobContext.engine` of a worker without an engine."""

    async def chat(
        self,
        call: ChatCall,
        *,
        on_progress: Callable[[EngineProgress], None] | None = None,  # noqa: ARG002  # the protocol's
    ) -> ChatAnswer:
        """Raise `EngineError`."""
        raise _no_engine(call.model)

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Raise `EngineError`."""
        raise _no_engine(call.model)


def _no_engine(model: str) -> EngineError:
    return EngineError(
        FailureClass.UNREACHABLE,
        f"nothing runs {model!r}: this worker has no engine; set [worker] engine, or --engine",
    )


def _ignore(_: EngineProgress) -> None:
    return None

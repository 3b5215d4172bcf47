"""Engine calls: admitted, timed, retried before the first token, measured.

A call is made for one job, or for several that share it: then the clocks of all of them stand
still during admission, and each is told what it used.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, TypeVar, cast

import anyio
import attrs

from worker_core._runtime.admission import Admission, AdmissionTimeout, Entry
from worker_core._runtime.call_clock import CallClock
from worker_core._runtime.chat_output import ChatOutput
from worker_core._runtime.circuits import Blamed, blamed
from worker_core._runtime.fallbacks import FallbackChain, Search
from worker_core.engine import (
    ChatAnswer,
    ChatCall,
    ChatChunk,
    EmbedAnswer,
    EmbedCall,
    EngineProgress,
    Operation,
    Phase,
)
from worker_core.errors import CircuitOpen, EngineError, FailureClass
from worker_core.fallback import Asker, CallLimits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker_core._runtime.circuits import TellChange
    from worker_core._runtime.engine_use import EngineUse
    from worker_core._runtime.fallbacks import Found
    from worker_core._runtime.scope import JobScope
    from worker_core.circuit import CircuitChange
    from worker_core.engine import Host
    from worker_core.job import JobContext

__all__ = ["GuardedEngine", "shared_out"]

AnswerT = TypeVar("AnswerT", ChatAnswer, EmbedAnswer)
CallT = TypeVar("CallT", ChatCall, EmbedCall)

_FIRST_BACKOFF_SECONDS = 0.25
_LONGEST_BACKOFF_SECONDS = 4.0
_UNLOADING: tuple[object, ...] = (0, "0", "0s", "0m")
"""What a call says by which the host unloads the model behind it."""

_THE_HOSTS = CallLimits()
"""No clock is shorter than the host's own."""

_RETRIED = frozenset({FailureClass.BUSY, FailureClass.UNREACHABLE, FailureClass.CRASHED})
"""What may pass in a moment. A time-out is not among them: it took the time that a retry needs."""


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
    _fallbacks: FallbackChain | None = None
    asker: Callable[[], Asker] | None = None
    """Says whom its calls are made for; there where fallbacks are."""
    _on_circuit: TellChange | None = None
    _line: _Line | None = attrs.field(default=None, init=False)

    async def chat(
        self,
        call: ChatCall,
        *,
        on_progress: Callable[[EngineProgress], None] | None = None,
        on_chunk: Callable[[ChatChunk], None] | None = None,
    ) -> ChatAnswer:
        """Wait for the model and a place, and generate an answer."""
        output = ChatOutput(on_progress or _ignore, on_chunk)

        async def make(call: ChatCall, limits: CallLimits) -> ChatAnswer:
            output.begin_anew()
            answer = await self._chat(call, limits, output)
            self.use.prompt_tokens += answer.prompt_eval_count or 0
            self.use.completion_tokens += answer.eval_count or 0
            if answer.eval_count and answer.eval_duration:
                self.use.tokens_per_second = answer.eval_count / (answer.eval_duration / 1e9)
            return answer

        return await self._answer(call, ChatAnswer, make, [self], [self], output.take_whole)

    async def _chat(self, call: ChatCall, limits: CallLimits, output: ChatOutput) -> ChatAnswer:
        async def attempt(host: Host, clock: CallClock) -> ChatAnswer:
            def take(chunk: ChatChunk) -> None:
                clock.beat()
                output.take(chunk)

            output.report(EngineProgress(Phase.GENERATING))
            return await host.chat(call, take)

        entry = self._entry(call, Operation.CHAT, output.report)
        return await self._call(entry, attempt, [self], limits)

    async def embed(
        self, call: EmbedCall, *, together_with: Sequence[JobContext] = ()
    ) -> EmbedAnswer:
        """Wait for the model and a place, and compute the vectors."""
        owners = _owners(call, together_with) or [self] * len(call.input)
        jobs = list({id(owner): owner for owner in owners}.values()) or [self]

        async def make(call: EmbedCall, limits: CallLimits) -> EmbedAnswer:
            answer = await self._embed(call, limits, jobs)
            tokens = shared_out(answer.prompt_eval_count or 0, [len(text) for text in call.input])
            for owner, share in zip(owners, tokens, strict=True):
                owner.use.prompt_tokens += share
            return answer

        return await self._answer(call, EmbedAnswer, make, jobs, owners)

    async def _embed(
        self, call: EmbedCall, limits: CallLimits, jobs: Sequence[GuardedEngine]
    ) -> EmbedAnswer:
        async def attempt(host: Host, _: CallClock) -> EmbedAnswer:
            return await host.embed(call)

        entry = self._entry(call, Operation.EMBED, _ignore)
        entry = attrs.evolve(
            entry,
            express=any(job.express for job in jobs),
            share=max(job.share for job in jobs),
        )
        return await self._call(entry, attempt, jobs, limits)

    async def _answer(
        self,
        call: CallT,
        kind: type[AnswerT],
        make: Callable[[CallT, CallLimits], Awaitable[AnswerT]],
        jobs: Sequence[GuardedEngine],
        owners: Sequence[GuardedEngine],
        on_kept: Callable[[AnswerT], None] | None = None,
    ) -> AnswerT:
        """Answer a call by itself, or by a fallback; `on_kept` is told of an answer none was made for."""
        chain = self._fallbacks
        if chain is None:
            return await make(call, _THE_HOSTS)
        asked = chain.asked(call, [owner.asker() for owner in owners if owner.asker])
        search = Search(asked=asked, kind=kind, make=make, time_left=partial(_least_left, jobs))
        found = await chain.before(search)
        if found is None:
            try:
                answer = await make(call, _THE_HOSTS)
            except EngineError as error:
                failure = error
            else:
                await chain.tell(asked, answer)
                return answer
            found = await chain.after(search, failure)
            if found is None:
                raise failure
        if found.kept and on_kept is not None:
            on_kept(found.answer)
        for job in jobs:
            job.note_fallback(call.model, found)
        return found.answer

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
        # What the host has loaded is not what such a call wants, nor what the next one will.
        loads_itself = isinstance(call, ChatCall) and call.context_length is not None
        return Entry(
            model=call.model,
            operation=operation,
            express=self.express,
            share=self.share,
            on_phase=lambda phase: report(EngineProgress(phase)),
            stays_loaded=call.keep_alive not in _UNLOADING and not loads_itself,
            loads_itself=loads_itself,
            on_circuit=None if self._on_circuit is None else self._note_circuit,
        )

    async def _call(
        self,
        entry: Entry,
        attempt: Callable[[Host, CallClock], Awaitable[AnswerT]],
        jobs: Sequence[GuardedEngine],
        limits: CallLimits,
    ) -> AnswerT:
        """Make the call, again where it failed before its first token, within the jobs' time."""
        for job in jobs:
            job.use.model_asked = job.use.model_asked or entry.model
        failures = 0
        model_failed: EngineError | None = None
        while True:
            clock = CallClock(limits)
            try:
                return await self._attempt(entry, attempt, clock, jobs)
            except CircuitOpen:
                if model_failed is not None:
                    # Its circuit has opened over this very call: a call that kills the model each
                    # time must spend its job's attempts, or it would be put back for ever.
                    raise model_failed from None
                raise
            except EngineError as error:
                if blamed(error.failure) is Blamed.MODEL:
                    model_failed = error
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
        attempt: Callable[[Host, CallClock], Awaitable[AnswerT]],
        clock: CallClock,
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
        # Whoever watches a job that has gone has been told of its end.
        if not self._has_ended:
            self._on_admitted(model)

    def _note_circuit(self, change: CircuitChange) -> None:
        """Note that what was asked for the job has changed a circuit."""
        if self._on_circuit is not None and not self._has_ended:
            self._on_circuit(change)

    @property
    def _has_ended(self) -> bool:
        """Whether its job may have gone, as one that shares a call or a load."""
        return self.scope.reason is not None or self.scope.is_settling

    def _note_load(self, seconds: float | None) -> None:
        """Add up loads: those that admission waited for, and what the engine tells of its own."""
        if seconds is not None:
            self.use.load_seconds = (self.use.load_seconds or 0.0) + seconds

    def note_answer(self, entry: Entry, answer: ChatAnswer | EmbedAnswer, clock: CallClock) -> None:
        """Note what a call for the job was answered with, but for its tokens."""
        use = self.use
        use.model_used = answer.model or entry.model
        use.warnings.extend(answer.warnings)
        if answer.load_duration is not None:
            self._note_load(answer.load_duration / 1e9)
        if use.first_token_seconds is None and clock.first_at is not None:
            use.first_token_seconds = clock.first_at - clock.began_at

    def note_fallback(self, model_asked: str, found: Found[AnswerT]) -> None:
        """Note that a fallback has answered a call for the job."""
        use = self.use
        use.fallback = found.use
        if found.kept:
            # No call has noted it. Of the engine it has used nothing.
            use.model_asked = use.model_asked or model_asked
            use.model_used = found.answer.model
            use.warnings.extend(found.answer.warnings)


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


def _least_left(jobs: Sequence[GuardedEngine]) -> timedelta | None:
    """Return the time of the job that has the least left."""
    times = [job.scope.time_left for job in jobs]
    return min((time for time in times if time is not None), default=None)


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


def _ignore(_: EngineProgress) -> None:
    return None

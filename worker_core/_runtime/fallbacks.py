"""The fallback chain: what is tried, in order, after an engine call has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import attrs
import structlog

from worker_core._observe.metrics import FallbackOutcome
from worker_core.engine import ChatAnswer, ChatCall, EmbedAnswer, Operation
from worker_core.errors import EngineError
from worker_core.fallback import (
    Adjusted,
    AskedCall,
    FailedCall,
    FailedWay,
    Fallback,
    FallbackAnswer,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import timedelta

    from worker_core.engine import JSON, EmbedCall
    from worker_core.fallback import Asker, CallLimits, Models
    from worker_core.redis import Redis

__all__ = ["FallbackChain", "FallbackUse", "Found", "Search"]

AnswerT = TypeVar("AnswerT", ChatAnswer, EmbedAnswer)

_log = structlog.get_logger("worker_core.fallbacks")

_MOST_CALLS = 8
"""How many adjusted calls are made for one that failed."""
_TELL_SECONDS = 0.25
"""How long a job that has its answer waits for a strategy that is told of it."""


@attrs.frozen(kw_only=True)
class FallbackUse:
    """What the envelope says of a fallback that answered."""

    strategy: str
    reason: str | None
    """Why the job's own call failed; `None`: it was not made."""
    detail: Mapping[str, JSON]


@attrs.frozen(kw_only=True)
class Found(Generic[AnswerT]):
    """An answer that a fallback has found."""

    answer: AnswerT
    use: FallbackUse
    kept: bool
    """Whether the strategy had it, and no call was made for it."""


@attrs.frozen(kw_only=True)
class Search(Generic[AnswerT]):
    """What it takes to answer one call another way."""

    asked: AskedCall
    kind: type[AnswerT]
    make: Callable[[Any, CallLimits], Awaitable[AnswerT]]
    """Makes a call of the same kind, through the same admission; raises `EngineError`."""
    time_left: Callable[[], timedelta | None]


class FallbackChain:
    """The strategies of a worker, in order; `count` is told how each that was asked ended."""

    def __init__(
        self,
        strategies: Sequence[Fallback],
        *,
        models: Callable[[Operation], Models],
        redis: Redis,
        count: Callable[[str, FallbackOutcome], None],
    ) -> None:
        self._strategies = tuple(strategies)
        # Most strategies have no word in calls that go well: those cost nothing then.
        self._early = [one for one in strategies if type(one).before is not Fallback.before]
        self._told = [one for one in strategies if type(one).answered is not Fallback.answered]
        self._models = models
        self._redis = redis
        self._count = count

    def asked(self, call: ChatCall | EmbedCall, askers: Sequence[Asker]) -> AskedCall:
        """Return a call as the strategies see it."""
        return AskedCall(call=call, askers=tuple(askers), redis=self._redis)

    async def before(self, search: Search[AnswerT]) -> Found[AnswerT] | None:
        """Ask for an answer before the call is made."""
        for strategy in self._early:
            said: object = None
            try:
                said = await strategy.before(search.asked)
            except* Exception:  # noqa: BLE001  # a plugin's fault: the call is made
                _log_raised(strategy)
            if isinstance(said, FallbackAnswer) and isinstance(said.answer, search.kind):
                self._count(strategy.name, FallbackOutcome.ANSWERED)
                use = FallbackUse(strategy=strategy.name, reason=None, detail=said.detail)
                return Found(answer=said.answer, use=use, kept=True)
            if said is not None:
                _log_nonsense(strategy, said)
        return None

    async def after(self, search: Search[AnswerT], error: EngineError) -> Found[AnswerT] | None:
        """Find another way to the answer of a call that failed; `None` where there is none."""
        call = search.asked.call
        operation = Operation.CHAT if isinstance(call, ChatCall) else Operation.EMBED
        ways = [FailedWay(call=call, error=error, strategy=None)]
        for strategy in self._strategies:
            if error.failure not in strategy.handles:
                continue
            attempt = _Attempt(strategy, search, self._models(operation), ways)
            found = await attempt.carry_out()
            self._count(strategy.name, attempt.outcome)
            if found is not None:
                _log.info(
                    "answered by a fallback",
                    strategy=strategy.name,
                    model_asked=call.model,
                    model_used=found.answer.model,
                    failure=error.failure.value,
                )
                return found
        for way in ways[1:]:
            error.add_note(f"{way.strategy} with {way.call.model!r} failed too: {way.error}")
        return None

    async def tell(self, asked: AskedCall, answer: ChatAnswer | EmbedAnswer) -> None:
        """Tell the strategies that the job's own call was answered; bounded, and never fails."""
        for strategy in self._told:
            with anyio.move_on_after(_TELL_SECONDS) as waiting:
                try:
                    await strategy.answered(asked, answer)
                except* Exception:  # noqa: BLE001  # a plugin's fault: the job has its answer
                    _log_raised(strategy)
            if waiting.cancelled_caught:
                _log.warning("a fallback strategy was too slow to be told", strategy=strategy.name)


class _Attempt(Generic[AnswerT]):
    """One strategy's try at a call that failed: it is asked until it answers or passes."""

    def __init__(
        self,
        strategy: Fallback,
        search: Search[AnswerT],
        models: Models,
        ways: list[FailedWay],
    ) -> None:
        self._strategy = strategy
        self._search: Search[AnswerT] = search
        self._models = models
        self._ways = ways
        self.outcome = FallbackOutcome.PASSED

    async def carry_out(self) -> Found[AnswerT] | None:
        search = self._search
        while (said := await self._ask()) is not None:
            if isinstance(said, FallbackAnswer):
                return self._found(said.answer, said.detail, kept=True)
            if len(self._ways) > _MOST_CALLS:
                return None
            try:
                answer = await search.make(said.call, said.limits)
            except EngineError as error:
                self.outcome = FallbackOutcome.FAILED
                self._ways.append(
                    FailedWay(call=said.call, error=error, strategy=self._strategy.name)
                )
            else:
                return self._found(answer, said.detail, kept=False)
        return None

    async def _ask(self) -> FallbackAnswer | Adjusted | None:
        """Return what the strategy says, where that makes sense."""
        search = self._search
        failed = FailedCall(
            asked=search.asked,
            ways=tuple(self._ways),
            time_left=search.time_left(),
            models=self._models,
        )
        said: object = None
        try:
            said = await self._strategy.answer(failed)
        except* Exception:  # noqa: BLE001  # a plugin's fault: the next strategy is asked
            self.outcome = FallbackOutcome.FAILED
            _log_raised(self._strategy)
        match said:
            case None:
                return None
            case FallbackAnswer() if isinstance(said.answer, search.kind):
                return said
            case Adjusted() if type(said.call) is type(search.asked.call):
                return said
            case _:
                self.outcome = FallbackOutcome.FAILED
                _log_nonsense(self._strategy, said)
                return None

    def _found(self, answer: object, detail: Mapping[str, JSON], *, kept: bool) -> Found[AnswerT]:
        assert isinstance(answer, self._search.kind)
        self.outcome = FallbackOutcome.ANSWERED
        use = FallbackUse(
            strategy=self._strategy.name, reason=str(self._ways[0].error), detail=detail
        )
        return Found(answer=answer, use=use, kept=kept)


def _log_raised(strategy: Fallback) -> None:
    _log.exception("a fallback strategy raised, and is passed over", strategy=strategy.name)


def _log_nonsense(strategy: Fallback, said: object) -> None:
    _log.error(
        "a fallback strategy answered with what does not fit the call, and is passed over",
        strategy=strategy.name,
        answer=type(said).__name__,
    )

"""What a fallback strategy is asked, made without a worker, so that its author can test it alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import attrs

from worker_core.engine import EmbedCall
from worker_core.errors import EngineError, FailureClass
from worker_core.fallback import AskedCall, Asker, FailedCall, FailedWay
from worker_core.job import Job

if TYPE_CHECKING:
    from worker_core.engine import ChatCall, ModelInfo
    from worker_core.redis import Redis

__all__ = ["ScriptedModels", "asked_call", "failed_call"]

_JOB = Job(
    id="1",
    queue="llm-chat",
    name="job",
    type="chat",
    attempt=1,
    max_attempts=1,
    priority=0,
    created_ms=0,
)


@attrs.frozen
class ScriptedModels:
    """`worker_core.fallback.Models`: the models that a test names, and no others."""

    there: Mapping[str, ModelInfo | None]
    """By their names; `None`: the engine cannot tell."""
    circuits_open: frozenset[str] = frozenset()
    unreachable: bool = False
    """Whether no host can be asked."""

    def may_run(self, model: str) -> bool:
        """Tell whether the test leaves the model's circuit closed."""
        return model not in self.circuits_open

    async def describe(self, model: str) -> ModelInfo | None:
        """Return what the test says."""
        if self.unreachable:
            raise EngineError(FailureClass.UNREACHABLE, "nobody there")
        if model not in self.there:
            raise EngineError(FailureClass.MODEL_MISSING, f"{model!r} is not here")
        return self.there[model]


def asked_call(
    call: ChatCall | EmbedCall, *, tenant: str | None = None, redis: Redis | None = None
) -> AskedCall:
    """Return a call as a job of `tenant` makes it; a strategy that needs no Redis need not get any."""
    asker = Asker(job=_JOB, tenant=tenant)
    count = len(call.input) if isinstance(call, EmbedCall) else 1
    return AskedCall(call=call, askers=(asker,) * count, redis=cast("Redis", redis))


def failed_call(
    asked: AskedCall | ChatCall | EmbedCall,
    failure: FailureClass,
    *more: FailedWay,
    models: ScriptedModels | None = None,
    time_left: timedelta | None = None,
) -> FailedCall:
    """Return a call that failed, and `more` ways that were tried since."""
    if not isinstance(asked, AskedCall):
        asked = asked_call(asked)
    first = FailedWay(call=asked.call, error=EngineError(failure, "scripted"), strategy=None)
    return FailedCall(
        asked=asked,
        ways=(first, *more),
        time_left=time_left,
        models=models or ScriptedModels({asked.call.model: None}),
    )

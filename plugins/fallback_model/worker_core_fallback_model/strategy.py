"""The strategy: the first model of a list that has not been tried and can do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs
import structlog

from worker_core import Adjusted, ChatCall, EngineError, FailedCall, FailureClass, Fallback
from worker_core.model_name import canonical_model_name
from worker_core_fallback_model.ability import lacking

if TYPE_CHECKING:
    from worker_core import EmbedCall
    from worker_core.fallback import Models
    from worker_core_fallback_model.settings import FallbackModelSettings

__all__ = ["ModelFallback"]

_log = structlog.get_logger("worker_core_fallback_model")

_ANOTHER_MODEL_IS_NO_HELP = frozenset(
    {
        # The request is wrong for any model.
        FailureClass.BAD_INPUT,
        # The host has too much to do or is away, whatever the model; more calls make it worse.
        FailureClass.BUSY,
        FailureClass.UNREACHABLE,
        FailureClass.UNAUTHORIZED,
    }
)


class ModelFallback(Fallback):
    """Makes the same call to other models, one after the other."""

    name: ClassVar[str] = "fallback_model"

    def __init__(self, settings: FallbackModelSettings) -> None:
        self._settings = settings
        everything = frozenset(FailureClass) if settings.enabled else frozenset[FailureClass]()
        self.handles = everything - _ANOTHER_MODEL_IS_NO_HELP

    async def answer(self, failed: FailedCall) -> Adjusted | None:
        """Adjust the call to the next model; pass when there is none."""
        call, tried = failed.asked.call, failed.tried
        for model in self._candidates(call):
            if canonical_model_name(model) in tried:
                continue
            why_not = await _why_not(model, call, failed.models)
            if why_not is None:
                return Adjusted(call=attrs.evolve(call, model=model), limits=self._settings.limits)
            _log.debug("a fallback model is left out", model=model, reason=why_not)
        return None

    def _candidates(self, call: ChatCall | EmbedCall) -> tuple[str, ...]:
        if isinstance(call, ChatCall):
            return self._settings.for_chat(call.model)
        return self._settings.for_embedding(call.model)


async def _why_not(model: str, call: ChatCall | EmbedCall, models: Models) -> str | None:
    """Return why a model is no use for a call; `None` where it may be."""
    if not models.may_run(model):
        return "its circuit is open"
    try:
        info = await models.describe(model)
    except EngineError as error:
        # A host that does not tell may answer all the same.
        return str(error) if error.failure is FailureClass.MODEL_MISSING else None
    return None if info is None else lacking(info, call)

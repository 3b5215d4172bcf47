"""The strategy: the same model, asked for less at each attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from worker_core import Adjusted, ChatCall, EngineError, FailedCall, FailureClass, Fallback
from worker_core_fallback_params.simpler import HELPS, simpler

if TYPE_CHECKING:
    from worker_core import JSON, ModelInfo
    from worker_core_fallback_params.settings import FallbackParamsSettings

__all__ = ["ParamsFallback"]


class ParamsFallback(Fallback):
    """Makes chat calls again, each simpler than the one before; embeddings it leaves alone."""

    name: ClassVar[str] = "fallback_params"

    def __init__(self, settings: FallbackParamsSettings) -> None:
        self._settings = settings
        self.handles = frozenset[FailureClass]().union(*(HELPS[step] for step in settings.steps))

    async def answer(self, failed: FailedCall) -> Adjusted | None:
        """Adjust the call by the steps taken before and one more; pass when there is none."""
        call = failed.asked.call
        if not isinstance(call, ChatCall):
            return None
        if not failed.models.may_run(call.model):
            return None
        info = await _info_of(call.model, failed)
        made = [way.call for way in failed.ways]
        taken: list[JSON] = []
        for step in self._settings.steps:
            if failed.error.failure not in HELPS[step]:
                continue
            less = simpler(call, step, self._settings, info)
            if less is None:
                continue
            call = less
            taken.append(step)
            if call not in made:
                limits = self._settings.limits
                return Adjusted(call=call, limits=limits, detail={"steps": taken})
        return None


async def _info_of(model: str, failed: FailedCall) -> ModelInfo | None:
    try:
        return await failed.models.describe(model)
    except EngineError:
        return None

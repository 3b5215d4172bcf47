"""What a job used of the engine, as its envelope and the metrics tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from worker_core._observe.metrics import EngineFigures

if TYPE_CHECKING:
    from worker_core._runtime.fallbacks import FallbackUse

__all__ = ["EngineUse"]


@attrs.define
class EngineUse:
    """What a job used of the engine; all times in seconds."""

    model_asked: str | None = None
    model_used: str | None = None
    admission_seconds: float = 0.0
    load_seconds: float | None = None
    first_token_seconds: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens_per_second: float | None = None
    warnings: list[str] = attrs.field(factory=list)
    fallback: FallbackUse | None = None
    """The last fallback that answered."""

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

"""Settings of the fallback to other models: `[plugins.fallback_model]`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import attrs

from worker_core import CallLimits, setting
from worker_core.config import longer_than_zero
from worker_core.model_name import canonical_model_name

__all__ = ["FallbackModelSettings"]

_optional_time = attrs.validators.optional(longer_than_zero)


@attrs.frozen(kw_only=True)
class FallbackModelSettings:
    """Which models answer for which, and how long they may take."""

    enabled: bool = setting(default=True, env="ENABLE_MODEL_FALLBACK")
    models: tuple[str, ...] = setting((), env="FALLBACK_MODELS")
    """Answer chats for every model that `by_model` does not name, in this order."""
    by_model: Mapping[str, tuple[str, ...]] = setting(factory=dict)
    """Answer chats for one model, by its name; an empty list: none does."""
    embeddings: Mapping[str, tuple[str, ...]] = setting(factory=dict)
    """Answer embeddings for one model. Vectors of two models cannot be compared, so there are
    none by default: name only models whose vectors whoever reads them tells apart."""
    first_token_timeout: timedelta | None = setting(None, validator=_optional_time)
    """Where it is shorter than the engine's own; so may fallback attempts take less time."""
    timeout: timedelta | None = setting(None, validator=_optional_time)
    """One whole answer of another model, where it is shorter than the engine's own."""

    @property
    def limits(self) -> CallLimits:
        """The clocks of a call to another model."""
        return CallLimits(first_token_timeout=self.first_token_timeout, total_timeout=self.timeout)

    def for_chat(self, model: str) -> tuple[str, ...]:
        """Return the models that chat for `model`, however it is spelt."""
        named = _of(self.by_model, model)
        return self.models if named is None else named

    def for_embedding(self, model: str) -> tuple[str, ...]:
        """Return the models that embed for `model`, however it is spelt."""
        return _of(self.embeddings, model) or ()


def _of(lists: Mapping[str, tuple[str, ...]], model: str) -> tuple[str, ...] | None:
    wanted = canonical_model_name(model)
    for name, models in lists.items():
        if canonical_model_name(name) == wanted:
            return models
    return None

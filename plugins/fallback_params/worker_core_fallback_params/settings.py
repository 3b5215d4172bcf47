"""Settings of the fallback to a simpler request: `[plugins.fallback_params]`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Literal, TypeAlias

import attrs

from worker_core import CallLimits, setting
from worker_core.config import at_least, longer_than_zero

__all__ = ["FallbackParamsSettings", "Step"]

Step: TypeAlias = Literal["think_off", "max_tokens", "history", "num_ctx"]
"""One way to ask for less."""

_optional_time = attrs.validators.optional(longer_than_zero)


@attrs.frozen(kw_only=True)
class FallbackParamsSettings:
    """How a request is made simpler, and how long the simpler one may take."""

    steps: tuple[Step, ...] = setting(("think_off", "max_tokens", "history"))
    """In this order, each on top of those before it."""
    max_tokens: int = setting(512, validator=at_least(1))
    """How long the answer of `max_tokens` may be."""
    history_messages: int = setting(4, validator=at_least(0))
    """How many messages before the last turn `history` keeps, beside the system's."""
    num_ctx: int = setting(2048, validator=at_least(1))
    """The context of `num_ctx`, which makes the server load the model anew, and back again."""
    first_token_timeout: timedelta | None = setting(None, validator=_optional_time)
    """Where it is shorter than the engine's own; so may fallback attempts take less time."""
    timeout: timedelta | None = setting(None, validator=_optional_time)
    """One whole answer to a simpler request, where it is shorter than the engine's own."""

    @property
    def limits(self) -> CallLimits:
        """The clocks of a simpler call."""
        return CallLimits(first_token_timeout=self.first_token_timeout, total_timeout=self.timeout)

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield (field, message) for combinations that cannot work."""
        if len(set(self.steps)) < len(self.steps):
            yield "steps", "names a step twice"

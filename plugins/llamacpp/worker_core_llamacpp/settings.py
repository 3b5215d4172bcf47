"""The settings of the embedded engine, `[plugins.llamacpp]`."""

from __future__ import annotations

from datetime import timedelta

import attrs

from worker_core.config import at_least, longer_than_zero, setting
from worker_core.engine import HostLimits

__all__ = ["LlamaCppSettings"]


@attrs.frozen(kw_only=True)
class LlamaCppSettings:
    """`[plugins.llamacpp]`: the model, and how much of this machine it may take."""

    model: str = setting("gemma3:270m", validator=attrs.validators.min_len(1))
    """The name that jobs ask for."""
    model_path: str | None = setting(None)
    """A `.gguf` file; by default the packaged model."""
    context: int = setting(1024, validator=at_least(16))
    """Tokens of one conversation, prompt and answer together."""
    parallel: int = setting(2, validator=at_least(1))
    """Answers at once; each takes the memory of its own context."""
    threads: int | None = setting(None, validator=attrs.validators.optional(at_least(1)))
    """Processors to compute on; all by default."""
    max_tokens: int = setting(128, validator=at_least(1))
    """The length of an answer whose job has no `num_predict`."""
    max_retries: int = setting(1, validator=at_least(0))
    timeout: timedelta = setting(timedelta(seconds=300), validator=longer_than_zero)
    """One whole answer."""
    first_token_timeout: timedelta = setting(timedelta(seconds=60), validator=longer_than_zero)
    between_tokens_timeout: timedelta = setting(timedelta(seconds=30), validator=longer_than_zero)
    load_timeout: timedelta = setting(timedelta(minutes=2), validator=longer_than_zero)

    @property
    def limits(self) -> HostLimits:
        """The worker's share: it keeps these clocks and counts."""
        return HostLimits(
            max_concurrent=self.parallel,
            max_retries=self.max_retries,
            first_token_timeout=self.first_token_timeout,
            between_tokens_timeout=self.between_tokens_timeout,
            total_timeout=self.timeout,
            load_timeout=self.load_timeout,
        )

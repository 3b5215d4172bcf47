"""Settings of chat jobs: `[plugins.chat]`."""

from __future__ import annotations

from datetime import timedelta

import attrs

from worker_core import EnvUnit, QueueSpec, setting
from worker_core.config import at_least, longer_than_zero

__all__ = ["ChatSettings"]


@attrs.frozen(kw_only=True)
class ChatSettings:
    """What chat jobs may do."""

    queues: tuple[QueueSpec, ...] = setting((QueueSpec("llm-chat"),))
    timeout: timedelta = setting(
        timedelta(seconds=300),
        env="WORKER_TIMEOUT",
        env_unit=EnvUnit.MILLISECONDS,
        validator=longer_than_zero,
    )
    """How long a job may run once its model is loaded and it has a place; a job may ask for less."""
    allowed_models: tuple[str, ...] | None = setting(None, env="ALLOWED_MODELS")
    """Names compared as Ollama compares them; all are allowed where none is named."""
    max_prompt_chars: int = setting(400_000, validator=at_least(1))
    """Characters of all messages together; images are not counted."""

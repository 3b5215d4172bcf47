"""Settings of embedding jobs: `[plugins.embeddings]`."""

from __future__ import annotations

from datetime import timedelta

import attrs

from worker_core import EnvUnit, QueueSpec, setting
from worker_core.config import at_least, longer_than_zero

__all__ = ["EmbeddingsSettings"]


@attrs.frozen(kw_only=True)
class EmbeddingsSettings:
    """What embedding jobs may do, and how they share calls."""

    queues: tuple[QueueSpec, ...] = setting((QueueSpec("llm-embeddings"),))
    """Without `concurrency` a queue has twice as many slots as a call has inputs: one half is
    filled while the other is in a call."""
    timeout: timedelta = setting(
        timedelta(seconds=300),
        env="WORKER_TIMEOUT",
        env_unit=EnvUnit.MILLISECONDS,
        validator=longer_than_zero,
    )
    """How long a job may run once its model is loaded and it has a place; a job may ask for less."""
    allowed_models: tuple[str, ...] | None = setting(None, env="ALLOWED_MODELS")
    """Names compared as Ollama compares them; all are allowed where none is named."""
    max_inputs: int = setting(10_000, validator=at_least(1))
    """Texts of one job."""
    max_input_chars: int = setting(400_000, validator=at_least(1))
    """Characters of one text."""
    batch_enabled: bool = setting(default=True, env="ENABLE_BATCH_PROCESSING")
    """Whether jobs share calls; without it each job's inputs are called for on their own."""
    batch_size: int = setting(32, env="WORKER_BATCH_SIZE", validator=at_least(1))
    """Inputs of one call, whichever jobs they belong to."""
    batch_timeout: timedelta = setting(
        timedelta(milliseconds=50),
        env="BATCH_TIMEOUT",
        env_unit=EnvUnit.MILLISECONDS,
        validator=longer_than_zero,
    )
    """How long a call waits for more inputs after its first; it does not where none can come."""

    @property
    def slotted_queues(self) -> tuple[QueueSpec, ...]:
        """The queues, each with its slots where jobs share calls."""
        if not self.batch_enabled:
            return self.queues
        # A slot holds one job, so fewer slots than that would cap the batch.
        slots = 2 * self.batch_size
        return tuple(attrs.evolve(q, concurrency=q.concurrency or slots) for q in self.queues)

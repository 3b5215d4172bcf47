"""Settings of batch jobs: `[plugins.batch]`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs

from worker_core import QueueSpec, setting
from worker_core.batches import DEFAULT_TTL
from worker_core.config import at_least, longer_than_zero

__all__ = ["BatchSettings"]


def _a_share(_: object, field: attrs.Attribute[Any], value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"'{field.name}' must be over 0 and at most 1")


@attrs.frozen(kw_only=True)
class BatchSettings:
    """What batches may do, and how far they give way."""

    queues: tuple[QueueSpec, ...] = setting((QueueSpec("llm-batch", 4),))
    """A slot holds a batch for as long as it runs; what runs at once of it is another matter."""
    share: float = setting(0.5, validator=_a_share)
    """How much of a host's places items take at most while other jobs wait there."""
    max_concurrency: int = setting(64, validator=at_least(1))
    """Items of one batch that run at once, whatever it asks for."""
    max_requests: int = setting(50_000, validator=at_least(1))
    ttl: timedelta = setting(DEFAULT_TTL, validator=longer_than_zero)
    """How long requests and outcomes are kept from the last outcome on."""
    retry_delay: timedelta = setting(timedelta(seconds=30), validator=longer_than_zero)
    """How long a batch is put off when the engine is gone or has too much to do."""
    patience: timedelta = setting(timedelta(hours=1), validator=longer_than_zero)
    """How long it is put off again and again, with no item that ends in between, until it fails."""

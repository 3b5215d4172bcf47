"""How far a batch is, as its job type writes it down."""

from __future__ import annotations

import enum
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from worker_core.engine import JSON
from worker_core.errors import InvalidRequest
from worker_core.strict_json import loads

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_TTL", "BatchPhase", "BatchState", "read_state"]

DEFAULT_TTL = timedelta(days=7)
"""How long everything of a batch is kept from the last thing that was written of it."""


class BatchPhase(enum.Enum):
    """What a batch does or did last; whether it waits, runs or was cancelled, its job tells."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    INVALID = "invalid"
    """Something was wrong with its requests, and nothing has run."""
    STOPPED = "stopped"
    """An item failed, and it was asked to stop then."""
    EXPIRED = "expired"
    """Its time ran out."""


@attrs.frozen(kw_only=True)
class BatchState:
    """The state of a batch; times in milliseconds since the epoch."""

    phase: BatchPhase = BatchPhase.VALIDATING
    total: int | None = None
    """`None` before a worker has begun it."""
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    started_ms: int | None = None
    ended_ms: int | None = None
    timeout_ms: int | None = None
    waiting_since_ms: int | None = None
    """Since when it is put off again and again, with no item that ended in between."""
    meta: JSON = None
    """What its submitter keeps there."""

    @property
    def ended(self) -> int:
        """How many items have an outcome."""
        return self.completed + self.failed


def read_state(reply: object) -> BatchState | None:
    """Read `HGETALL`'s flat reply; `None` where there is nothing. Never raises."""
    if not isinstance(reply, list) or not reply:
        return None
    fields = {
        bytes(name).decode("utf-8", "replace"): bytes(value)
        for name, value in zip(reply[::2], reply[1::2], strict=False)
    }
    return BatchState(
        phase=_phase(fields.get("status", b"")),
        total=_number(fields, "total"),
        completed=_number(fields, "completed") or 0,
        failed=_number(fields, "failed") or 0,
        prompt_tokens=_number(fields, "prompt_tokens") or 0,
        completion_tokens=_number(fields, "completion_tokens") or 0,
        started_ms=_number(fields, "started_ms"),
        ended_ms=_number(fields, "ended_ms"),
        timeout_ms=_number(fields, "timeout_ms"),
        waiting_since_ms=_number(fields, "waiting_since_ms"),
        meta=_json(fields.get("meta", b"null")),
    )


def _phase(raw: bytes) -> BatchPhase:
    try:
        return BatchPhase(raw.decode("utf-8", "replace"))
    except ValueError:  # a newer worker's
        return BatchPhase.VALIDATING


def _number(fields: Mapping[str, bytes], name: str) -> int | None:
    raw = fields.get(name, b"")
    return int(raw) if raw.isdigit() else None


def _json(raw: bytes) -> JSON:
    try:
        return loads(raw)
    except InvalidRequest:
        return None

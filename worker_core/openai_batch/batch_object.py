"""OpenAI's batch object, made of a batch as our client sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from worker_core.client import BatchStatus
from worker_core.engine import JSON
from worker_core.structure import InvalidData, structure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from worker_core.client import BatchView
    from worker_core.openai_batch.faults import LineFault

__all__ = [
    "ENDED",
    "Submitted",
    "batch_object",
    "errors_name",
    "output_name",
    "refused_object",
    "submitted_of",
]

ENDED = frozenset(
    {
        BatchStatus.COMPLETED,
        BatchStatus.FAILED,
        BatchStatus.EXPIRED,
        BatchStatus.CANCELLED,
    }
)
"""Nothing changes any more of a batch that stands so."""


@attrs.frozen(kw_only=True)
class Submitted:
    """What is kept of how a batch was submitted; all of it is absent where that was not by a file."""

    endpoint: str | None = None
    input_file: str | None = None
    completion_window: str | None = None
    model: str | None = None
    metadata: dict[str, JSON] | None = None

    def meta(self) -> Mapping[str, JSON]:
        """Return what a client keeps with the batch."""
        return {"openai": attrs.asdict(self)}


def submitted_of(view: BatchView) -> Submitted:
    """Return how a batch was submitted, as far as is known."""
    kept = view.meta.get("openai") if isinstance(view.meta, dict) else None
    try:
        return structure(kept, Submitted)
    except InvalidData:
        return Submitted()


def output_name(batch_id: str) -> str:
    """Return the name of the file with what the requests were answered."""
    return f"{batch_id}_output.jsonl"


def errors_name(batch_id: str) -> str:
    """Return the name of the file with why requests failed."""
    return f"{batch_id}_error.jsonl"


def batch_object(view: BatchView) -> dict[str, JSON]:
    """Return the object. The ids of its files are the names under which `batch fetch` writes them."""
    status, ended = view.status, view.status in ENDED
    has_errors = ended and view.completed < view.total

    def ended_as(wanted: BatchStatus) -> int | None:
        return _seconds(view.ended_at) if status is wanted else None

    return _whole(
        view.ref.id,
        status,
        submitted_of(view),
        errors=_errors([_failure(view.error)]) if status is BatchStatus.FAILED else None,
        output_file_id=output_name(view.ref.id) if ended and view.completed else None,
        error_file_id=errors_name(view.ref.id) if has_errors else None,
        created_at=_seconds(view.created_at),
        in_progress_at=_seconds(view.started_at),
        expires_at=_seconds(view.expires_at),
        completed_at=ended_as(BatchStatus.COMPLETED),
        failed_at=ended_as(BatchStatus.FAILED),
        expired_at=ended_as(BatchStatus.EXPIRED),
        cancelled_at=ended_as(BatchStatus.CANCELLED),
        request_counts={"total": view.total, "completed": view.completed, "failed": view.failed},
        usage={
            "input_tokens": view.usage.prompt_tokens,
            "output_tokens": view.usage.completion_tokens,
            "total_tokens": view.usage.total_tokens,
        },
    )


def refused_object(submitted: Submitted, faults: Sequence[LineFault]) -> dict[str, JSON]:
    """Return the object of a batch that never was: its file was refused."""
    errors = _errors([fault.data() for fault in faults])
    return _whole(None, BatchStatus.FAILED, submitted, errors=errors)


def _whole(
    batch_id: str | None, status: BatchStatus, submitted: Submitted, **members: JSON
) -> dict[str, JSON]:
    """Return an object with all of OpenAI's members; those that are not given are null."""
    given: dict[str, JSON] = {
        "id": batch_id,
        "object": "batch",
        "endpoint": submitted.endpoint,
        "model": submitted.model,
        "input_file_id": submitted.input_file,
        "completion_window": submitted.completion_window,
        "status": status.value,
        "metadata": submitted.metadata,
        **members,
    }
    return {name: given.get(name) for name in _MEMBERS}


_MEMBERS = (
    *("id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window"),
    *("status", "output_file_id", "error_file_id", "created_at", "in_progress_at", "expires_at"),
    *("finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"),
    *("request_counts", "usage", "metadata"),
)


def _errors(entries: Sequence[JSON]) -> JSON:
    return {"object": "list", "data": list(entries)}


def _failure(reason: str | None) -> JSON:
    return {"code": "batch_failed", "line": None, "message": reason, "param": None}


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())

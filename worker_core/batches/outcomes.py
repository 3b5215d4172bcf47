"""How items of a batch ended, as it is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs
import orjson

from worker_core.engine import JSON
from worker_core.strict_json import dumps

if TYPE_CHECKING:
    from worker_core.batches.items import BatchItem

__all__ = [
    "CompletedItem",
    "FailedItem",
    "ItemOutcome",
    "completed_outcome",
    "failed_outcome",
    "read_outcome",
]


@attrs.frozen
class CompletedItem:
    """It was answered."""

    custom_id: str
    type: str
    result: JSON
    """The envelope that a job of its own would have had."""


@attrs.frozen
class FailedItem:
    """It failed."""

    custom_id: str
    type: str
    failure: str
    """A `FailureClass` of the engine, or `invalid_request`, `deadline`, `error`."""
    message: str


ItemOutcome: TypeAlias = CompletedItem | FailedItem


def completed_outcome(item: BatchItem, envelope: bytes) -> bytes:
    """Write that an item was answered, by the envelope that its run has come to."""
    head = {"custom_id": item.custom_id, "type": item.type, "status": "completed"}
    return orjson.dumps(head | {"result": orjson.Fragment(envelope)})


def failed_outcome(item: BatchItem, failure: str, message: str) -> bytes:
    """Write that an item failed."""
    error = {"class": failure, "message": message}
    head = {"custom_id": item.custom_id, "type": item.type, "status": "failed"}
    return dumps(head | {"error": error})


def read_outcome(value: JSON) -> ItemOutcome | None:
    """Read an outcome from its JSON; `None` for what is none, as a newer worker may write it."""
    if not isinstance(value, dict):
        return None
    kind = str(value.get("type", ""))
    match value:
        case {"custom_id": str(custom_id), "status": "completed", "result": result}:
            return CompletedItem(custom_id, kind, result)
        case {"custom_id": str(custom_id), "status": "failed", "error": dict(error)}:
            failure, message = str(error.get("class", "error")), str(error.get("message", ""))
            return FailedItem(custom_id, kind, failure, message)
        case _:
            return None

"""The requests of a batch."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from worker_core.engine import JSON
from worker_core.errors import Fault, InvalidRequest
from worker_core.strict_json import dumps, key_path, loads
from worker_core.structure import InvalidData, structure

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BatchItem", "OnError", "item_faults", "read_item", "write_item"]


class OnError(enum.Enum):
    """What a batch does when an item of it has failed."""

    CONTINUE = "continue"
    """Its outcome is recorded as any other."""
    STOP = "stop"
    """No other item begins, and the batch fails; what is done is kept."""


@attrs.frozen
class BatchItem:
    """One request of a batch: `body` is what the data of a job of that type would be."""

    # No validators: a client names what is wrong with an item by its place, not as it is made.

    custom_id: str
    """The submitter's own name for it, each once in a batch."""
    type: str
    """The job type that answers it: `chat`, `embeddings`, ..."""
    body: JSON


def item_faults(item: BatchItem, path: str) -> Iterator[Fault]:
    """Yield what can be said against an item that stands at `path`, without knowing its type."""
    for name, text in (("custom_id", item.custom_id), ("type", item.type)):
        if not text:
            yield Fault(key_path(path, name), "must not be empty")


def write_item(item: BatchItem) -> bytes:
    """Write an item as it is stored; raises `Unpublishable`."""
    return dumps({"custom_id": item.custom_id, "type": item.type, "body": item.body})


def read_item(value: bytes | JSON) -> BatchItem:
    """Read an item, stored or as it stands in a job's data; raises `InvalidRequest`."""
    try:
        return structure(loads(value) if isinstance(value, bytes) else value, BatchItem)
    except InvalidData as error:
        raise InvalidRequest(error.faults) from None

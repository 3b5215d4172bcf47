"""A kept answer, as bytes and back. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs

from worker_core import ChatAnswer, InvalidRequest
from worker_core.strict_json import Unpublishable, dumps, loads
from worker_core.structure import InvalidData, structure

if TYPE_CHECKING:
    from worker_core import ChatCall

__all__ = ["Entry", "is_worth_keeping", "read_entry", "write_entry"]


@attrs.frozen(kw_only=True)
class Entry:
    """An answer, and when it was given, by its worker's clock."""

    stored_ms: int
    answer: ChatAnswer


def is_worth_keeping(call: ChatCall, answer: ChatAnswer) -> bool:
    """Tell whether an answer is one that the same request may get again."""
    said = answer.message.content
    if not answer.done or answer.done_reason in {"load", "unload"}:
        return False
    if answer.message.tool_calls:
        return True
    # A job type refuses prose for JSON; kept, it would be refused at every attempt.
    return _is_json(said) if call.format is not None else bool(said)


def write_entry(entry: Entry) -> bytes | None:
    """Return an entry as JSON; `None` for an answer that JSON cannot carry."""
    members = attrs.asdict(entry, filter=lambda _, value: value is not None)
    try:
        return dumps(members)
    except Unpublishable:
        return None


def read_entry(raw: bytes) -> Entry | None:
    """Return an entry; `None` for what another version has written."""
    try:
        return structure(loads(raw), Entry)
    except (InvalidRequest, InvalidData):
        return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True

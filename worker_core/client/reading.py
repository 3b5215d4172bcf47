"""Reading JSON that anybody may have written: as much as can be made of it, never an error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from worker_core.errors import InvalidRequest
from worker_core.strict_json import loads

if TYPE_CHECKING:
    from worker_core.engine import JSON

__all__ = ["NotJson", "read_json"]


class NotJson(ValueError):
    """The bytes are not JSON at all."""


def read_json(raw: bytes) -> JSON:
    """Return the value, also where it is only nearly JSON (NaN, huge integers); or raise `NotJson`."""
    try:
        return loads(raw)
    except InvalidRequest:
        pass
    # Workers of others are not as strict as ours, and their answers are still answers.
    try:
        value: JSON = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise NotJson(f"not JSON: {error}") from None
    return value

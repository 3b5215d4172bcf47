"""What running workers can be told and asked: the forms of requests and answers.

A request is published on a channel that every worker under a prefix hears, and each answers on a
list of that request's own. A worker that cannot hear is not missed by anybody: whoever asks knows
how many heard, not how many there are.
"""

from __future__ import annotations

import enum
import re
from typing import TypeVar
from uuid import uuid4

import attrs
import orjson

from worker_core.circuit import CircuitStanding
from worker_core.errors import InvalidRequest
from worker_core.strict_json import loads
from worker_core.structure import InvalidData, structure

__all__ = [
    "ANSWER_TTL_SECONDS",
    "ControlAction",
    "ControlAnswer",
    "ControlRequest",
    "answer_key",
    "control_channel",
    "read_answer",
    "read_request",
    "write",
]

_Form = TypeVar("_Form")

ANSWER_TTL_SECONDS = 30
"""How long an answer is kept that nobody reads."""


class ControlAction(enum.Enum):
    """What a worker is to do."""

    LIST_CIRCUITS = "list_circuits"
    RESET_CIRCUITS = "reset_circuits"
    """The answer has those that were closed."""


def _check_id(_: object, field: attrs.Attribute[str], value: str) -> None:
    # It becomes part of a key that workers write.
    if not re.fullmatch(r"[0-9a-f]{32}", value):
        raise ValueError(f"'{field.name}' must be 32 hexadecimal digits")


@attrs.frozen(kw_only=True)
class ControlRequest:
    """What is asked of every worker."""

    action: ControlAction
    id: str = attrs.field(factory=lambda: uuid4().hex, validator=_check_id)
    circuit: str | None = None
    """The circuit to close; by default all of them."""
    host: str | None = None
    """The host whose circuits to close; by default every one's."""


@attrs.frozen(kw_only=True)
class ControlAnswer:
    """What one worker answers."""

    worker: str
    circuits: tuple[CircuitStanding, ...] = ()


def control_channel(prefix: str) -> str:
    """Return the channel that workers hear."""
    return f"{prefix}:worker-core:control"


def answer_key(prefix: str, request: ControlRequest) -> str:
    """Return the key of the list that a request is answered on."""
    return f"{control_channel(prefix)}:{request.id}"


def write(form: ControlRequest | ControlAnswer) -> bytes:
    """Return a request or an answer as JSON."""
    return orjson.dumps(attrs.asdict(form))


def read_request(raw: bytes) -> ControlRequest | None:
    """Read a request; `None` for what is none, or not one of this version's."""
    return _read(raw, ControlRequest)


def read_answer(raw: bytes) -> ControlAnswer | None:
    """Read an answer; `None` for what is none."""
    return _read(raw, ControlAnswer)


def _read(raw: bytes, shape: type[_Form]) -> _Form | None:
    try:
        return structure(loads(raw), shape)
    except (InvalidRequest, InvalidData):
        return None

"""A completed job's result, read from the envelope that a worker published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import attrs

from worker_core.client.reading import NotJson, read_json
from worker_core.engine import JSON
from worker_core.structure import InvalidData, structure

__all__ = ["ModelUse", "Result", "Stored", "Timings", "Usage", "read_result", "result_of"]

_ENVELOPE_MARKS = frozenset({"type", "answer", "worker", "timings"})
"""Members by which an envelope is known; other workers return whatever they like."""


@attrs.frozen(kw_only=True)
class ModelUse:
    """The model that the job asked for, and the one that answered; `None` where none took part."""

    asked: str | None = None
    used: str | None = None


@attrs.frozen(kw_only=True)
class Usage:
    """Tokens, as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@attrs.frozen(kw_only=True)
class Timings:
    """Where the time went, in milliseconds; `None` where there was no such phase."""

    queue_wait_ms: float | None = None
    admission_ms: float | None = None
    load_ms: float | None = None
    first_token_ms: float | None = None
    total_ms: float | None = None


@attrs.frozen(kw_only=True)
class Stored:
    """Where an answer is that was too large for the return value: a key, and how long it is kept."""

    key: str
    bytes: int = 0
    ttl_seconds: int = 0

    @property
    def ttl(self) -> timedelta:
        """How long the key is kept from the job's end on."""
        return timedelta(seconds=self.ttl_seconds)


@attrs.frozen(kw_only=True)
class Result:
    """What a job answered, and how it was made.

    The return value of a worker that is not ours has no envelope: then `type` is `None`, `answer`
    is the return value as it is, and all else is empty.
    """

    answer: JSON
    type: str | None = None
    """The job type that answered."""
    model: ModelUse = ModelUse()
    usage: Usage = Usage()
    timings: Timings = Timings()
    fallback: Mapping[str, JSON] | None = None
    """The second way by which the answer was made, and why; `None` when the first one worked."""
    attempt: int | None = None
    """1 for the first."""
    worker: str | None = None
    warnings: tuple[str, ...] = ()
    """The worker's, and one for each member of the envelope that this client could not read."""
    stored: Stored | None = None
    """Set in a return value that only points to its answer; a client follows it by itself."""
    raw: bytes = attrs.field(repr=False, eq=False, default=b"null")
    """The envelope (or return value) as it was published."""

    @property
    def text(self) -> str | None:
        """The words of a chat's answer, or an answer that is text; `None` for any other."""
        match self.answer:
            case str():
                return self.answer
            case {"message": {"content": str(content)}}:
                return content
            case _:
                return None


def read_result(raw: bytes) -> Result:
    """Read a return value; never raises for what stands in it."""
    try:
        value = read_json(raw)
    except NotJson as error:
        text = raw.decode("utf-8", "replace")
        return Result(answer=text, raw=raw, warnings=(f"the return value is {error}",))
    return result_of(value, raw)


def result_of(value: JSON, raw: bytes) -> Result:
    """Read a return value that has been parsed from `raw`; never raises."""
    if (
        not isinstance(value, dict)
        or not value.keys() >= _ENVELOPE_MARKS
        or not isinstance(value["type"], str)
    ):
        return Result(answer=value, raw=raw)
    members, unread = _read_members(value)
    warnings = (*members.pop("warnings", ()), *unread)
    return Result(**members, warnings=warnings, raw=raw)


def _read_members(envelope: dict[str, JSON]) -> tuple[dict[str, Any], list[str]]:
    """Structure each member on its own: a newer worker may write one of them otherwise."""
    attrs.resolve_types(Result)
    members: dict[str, Any] = {}
    unread = []
    for field in attrs.fields(Result):
        if field.name == "raw" or field.name not in envelope:
            continue
        shape: Any = field.type
        try:
            members[field.name] = structure(envelope[field.name], shape)
        except InvalidData as error:
            unread.append(f"the result's {field.name!r} could not be read: {error}")
    return members, unread

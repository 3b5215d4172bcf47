"""What the requests of different job types have in common: validators of fields, and faults.

A message names its field, so that the reader of a job's `failedReason` knows what to mend.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worker_core.durations import parse_duration
from worker_core.errors import Fault
from worker_core.model_name import is_model_in
from worker_core.strict_json import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import attrs

    from worker_core.engine import JSON

__all__ = ["a_time_limit", "disallowed_model", "not_empty", "read_time_limit", "tenant_in"]

_SHOWN_CHARACTERS = 100


def not_empty(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    """Refuse what is empty."""
    if not value:
        raise ValueError(f"'{field.name}' must not be empty")


def a_time_limit(_: object, field: attrs.Attribute[Any], value: float | str | None) -> None:
    """Refuse what `read_time_limit` cannot read, nothing, and for ever."""
    try:
        limit = read_time_limit(value)
    except OverflowError:
        limit = timedelta()
    if limit is not None and limit <= timedelta():
        raise ValueError(f"'{field.name}' must be longer than nothing, and not for ever")


def read_time_limit(value: float | str | None) -> timedelta | None:
    """Read a time that a Node application gave: a number is milliseconds, as it counts."""
    if value is None:
        return None
    return parse_duration(value) if isinstance(value, str) else timedelta(milliseconds=value)


def tenant_in(metadata: Mapping[str, JSON]) -> str | None:
    """Return whom a request is for, as its `metadata.tenant` says; what is no text, as JSON."""
    tenant = metadata.get("tenant")
    if tenant is None or isinstance(tenant, str):
        return tenant
    return dumps(tenant).decode()


def disallowed_model(model: str, allowed: Sequence[str] | None) -> Iterator[Fault]:
    """Yield the fault of a model that is not among those allowed; `None` allows all."""
    if allowed is not None and not is_model_in(model, allowed):
        shown = model[:_SHOWN_CHARACTERS]
        yield Fault("model", f"{shown!r} is not allowed; allowed are: {', '.join(allowed)}")

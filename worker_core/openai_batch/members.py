"""Reading a request's body: what is known is checked, what could not be kept is refused by name.

An answer that ignores a part of its request is worse than none: it is taken for what was asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from worker_core.errors import Fault, InvalidRequest
from worker_core.strict_json import key_path
from worker_core.structure import InvalidData, structure, unknown_members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import attrs

    from worker_core.engine import JSON

__all__ = ["at_least", "items", "member", "read_body", "refuse", "unknown"]

T = TypeVar("T")


def refuse(why: str, *, but: JSON = None) -> Callable[[object, attrs.Attribute[Any], JSON], None]:
    """Make a validator of what cannot be done here; null and `but`, which ask for nothing, pass."""

    def validate(_: object, field: attrs.Attribute[Any], value: JSON) -> None:
        if value is not None and not (type(value) is type(but) and value == but):
            raise ValueError(f"'{field.name}' cannot be used here: {why}")

    return validate


def at_least(least: float) -> Callable[[object, attrs.Attribute[Any], float | None], None]:
    """Make a validator of numbers; null passes."""

    def validate(_: object, field: attrs.Attribute[Any], value: float | None) -> None:
        if value is not None and value < least:
            raise ValueError(f"'{field.name}' must be at least {least:g}")

    return validate


def unknown(value: JSON, shape: type, path: str = "") -> Iterator[Fault]:
    """Yield a fault for each member that the attrs class `shape` does not know."""
    for name in unknown_members(value, shape):
        yield Fault(key_path(path, name[:100]), "is not known here")


def member(value: JSON, name: str) -> JSON:
    """Return a member of what may be an object."""
    return value.get(name) if isinstance(value, dict) else None


def items(value: JSON) -> list[JSON]:
    """Return the items of what may be a list."""
    return value if isinstance(value, list) else []


def read_body(body: JSON, shape: type[T]) -> T:
    """Return a body as a `shape`, or raise `InvalidRequest` with every fault."""
    faults = list(unknown(body, shape))
    try:
        read = structure(body, shape)
    except InvalidData as error:
        raise InvalidRequest([*error.faults, *faults]) from None
    if faults:
        raise InvalidRequest(faults)
    return read

"""Circuits: what keeps calls away from a model or a host that fails again and again."""

from __future__ import annotations

import enum
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs.validators import ge

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["CircuitChange", "CircuitLimits", "CircuitStanding", "CircuitState"]


class CircuitState(enum.Enum):
    """Whether calls are let through."""

    CLOSED = "closed"
    """All of them."""
    OPEN = "open"
    """None: each fails at once."""
    HALF_OPEN = "half_open"
    """A few, to find out whether they are answered again."""


def _share(_: object, field: Attribute[Any], value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"'{field.name}' must be over 0 and at most 1")


def _longer_than_zero(_: object, field: Attribute[Any], value: timedelta) -> None:
    if value <= timedelta():
        raise ValueError(f"'{field.name}' must be longer than 0s")


@attrs.frozen(kw_only=True)
class CircuitLimits:
    """When a circuit opens, for how long, and how it closes; may be a table of a plugin's settings."""

    failure_share: float = attrs.field(default=0.5, validator=_share)
    """It opens when so many of the calls within `window` failed, and there were `min_calls`."""
    window: timedelta = attrs.field(default=timedelta(seconds=60), validator=_longer_than_zero)
    min_calls: int = attrs.field(default=10, validator=ge(1))
    consecutive: int = attrs.field(default=5, validator=ge(1))
    """It opens when so many calls in a row failed, however few there were."""
    open_for: timedelta = attrs.field(default=timedelta(seconds=10), validator=_longer_than_zero)
    """How long it stays open at first; each time that it opens again without having been closed for
    `window`, twice as long as before."""
    max_open: timedelta = attrs.field(default=timedelta(minutes=5), validator=_longer_than_zero)
    """How long it stays open at most."""
    probes: int = attrs.field(default=1, validator=ge(1))
    """How many calls are let through when it is half open; it closes when all of them were
    answered, and opens again when one of them failed."""
    when_half_open: Literal["fail", "wait"] = attrs.field(default="fail")
    """What the other calls do meanwhile: `fail` at once, or `wait` for the probes."""


@attrs.frozen
class CircuitChange:
    """A circuit that has come to another state."""

    host: str
    """The host's name, as `Host.name` says."""
    circuit: str
    """Operation and model, such as `chat:llama3`; `host` for the host itself."""
    state: CircuitState


@attrs.frozen(kw_only=True)
class CircuitStanding:
    """How a circuit stands."""

    host: str
    circuit: str
    state: CircuitState
    calls: int
    """Those of its window."""
    failures: int
    """How many of them failed."""
    open_seconds: float
    """How long it stays open."""

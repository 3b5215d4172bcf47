"""Scripted faults: which request they strike, how often, and what they do to it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from worker_core.model_name import canonical_model_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FaultAction", "FaultMoment", "Script", "ScriptedFault"]


_WORDS = {
    401: "unauthorized",
    404: "model not found (scripted fault)",
    503: "server busy, please try again.  maximum pending requests exceeded",
}


class FaultAction(enum.Enum):
    """What a scripted fault does to the request that it strikes."""

    STATUS = "status"
    """Answer `status` with `{"error": ...}`."""
    CLOSE = "close"
    """End the connection before any header."""
    RESET = "reset"
    """Send a TCP reset: before any header, or after `after_chunks` lines when that is not 0."""
    HANG = "hang"
    """Say nothing for ever: before any header, or after `after_chunks` lines when that is not 0."""
    CUT = "cut"
    """After `after_chunks` lines a clean end without `done`."""
    ABORT = "abort"
    """After `after_chunks` lines and half of the next the connection ends."""
    ERROR_LINE = "error_line"
    """After `after_chunks` lines a last line `{"error": ...}`."""
    GARBAGE = "garbage"
    """After `after_chunks` lines the line `text`, which is no JSON, then the rest."""
    NOT_DONE = "not_done"
    """All of the text, but `done: false` in the last line."""
    SLOW = "slow"
    """A good answer, `delay` later and with `token_seconds` between tokens."""
    ANSWER = "answer"
    """A good answer whose text is `text`."""

    @property
    def within_answer(self) -> bool:
        """Whether it strikes while an answer is written (else it stands in the answer's place)."""
        match self:
            case FaultAction.STATUS | FaultAction.CLOSE:
                return False
            case (
                FaultAction.RESET
                | FaultAction.HANG
                | FaultAction.CUT
                | FaultAction.ABORT
                | FaultAction.ERROR_LINE
                | FaultAction.GARBAGE
                | FaultAction.NOT_DONE
                | FaultAction.SLOW
                | FaultAction.ANSWER
            ):
                return True


class FaultMoment(enum.Enum):
    """When a fault is looked for."""

    REQUEST = "request"
    """A request has come in."""
    LOAD = "load"
    """A model is about to be loaded for a request; the fault comes after the load's time."""


@attrs.frozen(kw_only=True)
class ScriptedFault:
    """One fault: the conditions (all must hold), how often, and the action with its details."""

    action: FaultAction
    path: str | None = None
    """Such as `/api/chat`; `None`: every path but `/_fake/`."""
    method: str | None = None
    model: str | None = None
    """However it is spelt."""
    contains: str | None = None
    """A piece of a message, a prompt or an input."""
    moment: FaultMoment = FaultMoment.REQUEST
    skip: int = attrs.field(default=0, validator=ge(0))
    """Requests that match and are let through first."""
    count: int | None = 1
    """How many it strikes; `None`: all."""

    status: int = 500
    error: str | None = None
    """The server's words; `None`: Ollama's own for that status."""
    after_chunks: int = attrs.field(default=0, validator=ge(0))
    """Lines sent before it strikes; an answer of fewer is struck before its last line."""
    text: str = "{not json"
    delay: float = attrs.field(default=0.0, validator=ge(0.0))
    """Seconds before anything happens."""
    token_seconds: float = attrs.field(default=0.0, validator=ge(0.0))

    @property
    def words(self) -> str:
        """What the client is told."""
        if self.error is not None:
            return self.error
        return _WORDS.get(self.status, "model runner has unexpectedly stopped (scripted fault)")

    @property
    def replaces_answer(self) -> bool:
        """Whether the request never reaches a model."""
        match self.action:
            case FaultAction.STATUS | FaultAction.CLOSE:
                return True
            case FaultAction.RESET | FaultAction.HANG:
                return self.after_chunks == 0
            case _:
                return False


@attrs.define(eq=False)
class _Armed:
    fault: ScriptedFault
    seen: int = 0
    struck: int = 0

    @property
    def spent(self) -> bool:
        return self.fault.count is not None and self.struck >= self.fault.count


class Script:
    """The faults in the order in which they were given; the first that matches strikes."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    @property
    def pending(self) -> tuple[ScriptedFault, ...]:
        """The faults that may still strike."""
        return tuple(armed.fault for armed in self._armed)

    def add(self, *faults: ScriptedFault) -> None:
        """Append faults."""
        self._armed.extend(_Armed(fault) for fault in faults)

    def clear(self) -> None:
        """Forget every fault."""
        self._armed.clear()

    def match(
        self, moment: FaultMoment, *, method: str, path: str, model: str, text: Callable[[], str]
    ) -> ScriptedFault | None:
        """Return the fault that strikes this request, and count it; `text` is called if needed."""
        for armed in self._armed:
            fault = armed.fault
            if fault.moment is not moment or (fault.path is not None and fault.path != path):
                continue
            if fault.method is not None and fault.method != method:
                continue
            if fault.model is not None and not _same_model(fault.model, model):
                continue
            if fault.contains is not None and fault.contains not in text():
                continue
            armed.seen += 1
            if armed.seen <= fault.skip:
                continue
            armed.struck += 1
            if armed.spent:
                self._armed.remove(armed)
            return fault
        return None


def _same_model(one: str, other: str) -> bool:
    return bool(other) and canonical_model_name(one) == canonical_model_name(other)

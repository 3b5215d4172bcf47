"""Whose failure it is when an item's run fails: the item's own, or that of what it runs on."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from worker_core import EngineError, FailureClass, InvalidRequest
from worker_core.errors import DeadlineExceeded, RedisError

__all__ = ["Interruption", "OwnFailure", "Verdict", "verdict_on"]

_MESSAGE_CHARS = 2000


@attrs.frozen
class OwnFailure:
    """The item has failed; that is its outcome."""

    failure: str
    message: str


@attrs.frozen
class Interruption:
    """The item may run again, and others would fail alike: the batch does not go on now."""

    error: Exception
    may_pass: bool
    """Whether it helps to wait."""


Verdict: TypeAlias = OwnFailure | Interruption


def verdict_on(error: Exception) -> Verdict:
    """Say what an error of an item's run means for the item and the batch."""
    match error:
        case EngineError():
            return _verdict_on_engine(error)
        case InvalidRequest():
            return OwnFailure("invalid_request", _shown(str(error)))
        case DeadlineExceeded():
            return OwnFailure("deadline", _shown(str(error)))
        case RedisError():
            return Interruption(error, may_pass=True)
        case _:
            return OwnFailure("error", _shown(str(error) or type(error).__name__))


def _verdict_on_engine(error: EngineError) -> Verdict:
    match error.failure:
        case FailureClass.BUSY | FailureClass.UNREACHABLE | FailureClass.CIRCUIT_OPEN:
            return Interruption(error, may_pass=True)
        case FailureClass.UNAUTHORIZED:
            return Interruption(error, may_pass=False)
        case (
            FailureClass.BAD_INPUT
            | FailureClass.MODEL_MISSING
            | FailureClass.UNSUPPORTED
            | FailureClass.TIMEOUT
            | FailureClass.OUT_OF_MEMORY
            | FailureClass.CRASHED
            | FailureClass.INCOMPLETE
        ):
            return OwnFailure(error.failure.value, _shown(error.message))


def _shown(message: str) -> str:
    return message[:_MESSAGE_CHARS]

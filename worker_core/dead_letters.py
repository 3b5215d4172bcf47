"""Dead letters: jobs that failed for good, with the history of their attempts.

Each is a job on the BullMQ queue `<queue>-dead`, named as the job was, and its data is a
`DeadLetter` as JSON, where `error_class` is called `class`. The worker writes them, clients and
whoever consumes such a queue read them.
"""

from __future__ import annotations

import enum
import json
from typing import TypeAlias

import attrs

from worker_core.engine import JSON
from worker_core.errors import FailureClass, InvalidRequest
from worker_core.strict_json import loads
from worker_core.structure import InvalidData, structure

__all__ = [
    "ERROR_CLASSES",
    "DeadJob",
    "DeadLetter",
    "ErrorClass",
    "FailedAttempt",
    "LetterError",
    "OtherFailure",
    "read_attempts",
    "read_dead_letter",
]


class OtherFailure(enum.Enum):
    """How a job failed where it was not the engine that did."""

    INVALID_REQUEST = "invalid_request"
    """Its data is wrong."""
    UNRECOVERABLE = "unrecoverable"
    """Its job type says that another attempt would not help."""
    DEADLINE = "deadline"
    """It did not end within its time."""
    STALLED = "stalled"
    """It lost its worker too often."""
    ERROR = "error"
    """Its job type raised something else."""


ErrorClass: TypeAlias = FailureClass | OtherFailure

ERROR_CLASSES = tuple(one.value for classes in (FailureClass, OtherFailure) for one in classes)
"""The names of all classes."""


# What is read is of any version of the worker, also of one that knows more classes: text.
@attrs.frozen(kw_only=True)
class FailedAttempt:
    """One attempt of a job that failed; `error` is the beginning of what was said."""

    at_ms: int
    """When it failed, in milliseconds since the epoch."""
    worker: str
    error_class: str
    error: str

    def wire(self) -> dict[str, JSON]:
        """Return the attempt as JSON has it."""
        return {
            "at_ms": self.at_ms,
            "worker": self.worker,
            "class": self.error_class,
            "error": self.error,
        }


@attrs.frozen(kw_only=True)
class LetterError:
    """Why a job failed for good."""

    error_class: str
    message: str

    def wire(self) -> dict[str, JSON]:
        """Return the error as JSON has it."""
        return {"class": self.error_class, "message": self.message}


@attrs.frozen(kw_only=True)
class DeadJob:
    """The job as its producer wrote it; what is not JSON in it is text."""

    id: str
    queue: str
    name: str
    created_ms: int
    """Its timestamp, in milliseconds since the epoch."""
    data: JSON
    opts: JSON
    """Its options, under BullMQ's names."""


@attrs.frozen(kw_only=True)
class DeadLetter:
    """A job that failed for good."""

    job: DeadJob
    error: LetterError
    model: str | None
    """The model that its data asks for."""
    attempts: tuple[FailedAttempt, ...]
    """The last twenty that failed, the newest last."""
    failed_at_ms: int
    """In milliseconds since the epoch."""
    worker: str
    """Whose attempt was the last."""

    def wire(self) -> dict[str, JSON]:
        """Return the letter as JSON has it."""
        return {
            "job": attrs.asdict(self.job),
            "error": self.error.wire(),
            "model": self.model,
            "attempts": [one.wire() for one in self.attempts],
            "failed_at_ms": self.failed_at_ms,
            "worker": self.worker,
        }


def read_attempts(raw: bytes) -> tuple[FailedAttempt, ...]:
    """Read the attempts that a job's hash keeps; what is none is left out."""
    try:
        found = loads(raw) if raw else []
    except InvalidRequest:
        return ()
    read = (_attempt(one) for one in (found if isinstance(found, list) else ()))
    return tuple(one for one in read if one is not None)


def _attempt(value: JSON) -> FailedAttempt | None:
    try:
        return structure(_in_our_names(value), FailedAttempt)
    except InvalidData:
        return None


def read_dead_letter(raw: bytes) -> DeadLetter | None:
    """Read a dead letter; `None` where the data is none."""
    try:
        # Not by our strict reader: what a producer has put into a job may be odd JSON, and his
        # letter is one all the same.
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    attempts = found.get("attempts")
    named = found | {
        "error": _in_our_names(found.get("error")),
        "attempts": [
            _in_our_names(one) for one in (attempts if isinstance(attempts, list) else ())
        ],
    }
    try:
        return structure(named, DeadLetter)
    except InvalidData:
        return None


def _in_our_names(value: JSON) -> JSON:
    """Return an object with `class` under a name that an attribute may have."""
    if not isinstance(value, dict):
        return value
    return {"error_class" if key == "class" else key: member for key, member in value.items()}

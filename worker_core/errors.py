"""Every error that worker-core raises, and what each means for a job.

::

    WorkerCoreError
    ├── ConfigError             settings refused at start, all faults at once        exit code 2
    ├── PluginError             a plugin cannot be loaded, or broke its contract      exit code 2
    ├── RedisError
    │   ├── RedisUnavailable    no connection within the time given
    │   ├── ReplyLost           the call was sent, its reply never came: ask, do not guess
    │   ├── ReplyError          the server answered with an error
    │   └── LinkClosed          the call was made on a link that is closed (never sent)
    ├── JobSignal               not done, not failed: the job runs again later (`worker_core.signals`)
    └── JobError                what a run of a job ends with
        ├── InvalidRequest      the job's data is wrong: fails at once, for good
        ├── Unrecoverable       the job type says: fails at once, for good
        ├── DeadlineExceeded    the job's own clock ran out: retried as its attempts say
        └── EngineError         the engine failed; `failure` says how, and so whether to retry
            └── CircuitOpen     it was not asked, for it fails again and again: later, no attempt spent

A job type may raise anything. What is not a `JobError` counts as a failure that
may be retried, as in BullMQ.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

__all__ = [
    "CircuitOpen",
    "ConfigError",
    "DeadlineExceeded",
    "EngineError",
    "FailureClass",
    "Fault",
    "InvalidRequest",
    "JobError",
    "LinkClosed",
    "PluginError",
    "RedisError",
    "RedisUnavailable",
    "ReplyError",
    "ReplyLost",
    "Unrecoverable",
    "WorkerCoreError",
]


class WorkerCoreError(Exception):
    """The root: whatever worker-core raises on purpose."""


@attrs.frozen
class Fault:
    """One thing that is wrong with some input, named by its path."""

    path: str
    """Where: `messages[2].role`, `plugins.chat.timeout`; empty for the whole."""
    message: str
    """What was expected, and what was found."""
    source: str | None = None
    """Who said it: a file, an environment variable, a flag; `None` for a job's data."""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}" if self.path else self.message
        return f"{text} (from {self.source})" if self.source else text


class ConfigError(WorkerCoreError):
    """Settings that the worker refuses to start with; `faults` holds every one of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class PluginError(WorkerCoreError):
    """A plugin that cannot be loaded or broke its contract; the message names it and its distribution."""

    def __init__(self, plugin: str, message: str) -> None:
        self.plugin = plugin
        super().__init__(f"plugin {plugin!r}: {message}")


class RedisError(WorkerCoreError):
    """Something between the worker and Redis."""


class RedisUnavailable(RedisError):
    """No connection could be made within the time given."""


class ReplyLost(RedisError):
    """The call was sent and the connection ended before its reply: it may or may not have run."""


class ReplyError(RedisError):
    """The server answered the call with an error; `code` is its first word, such as `WRONGTYPE`."""

    def __init__(self, message: str) -> None:
        self.code = message.partition(" ")[0]
        super().__init__(message)


class LinkClosed(RedisError):
    """The call was made on a link that is closed for good; it was never sent."""


class JobError(WorkerCoreError):
    """What a run of a job ends with when it does not end well; raised by job types and engines."""

    retryable = True
    """Whether another attempt could end differently."""


class InvalidRequest(JobError):
    """The job's data is wrong; `faults` names every fault by its path. Never retried."""

    retryable = False

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("invalid request: " + "; ".join(str(fault) for fault in self.faults))


class Unrecoverable(JobError):
    """The job has failed and another attempt would not help. Never retried."""

    retryable = False


class DeadlineExceeded(JobError):
    """The job did not end within its time."""


class FailureClass(enum.Enum):
    """How an engine failed, by what can be done about it."""

    BAD_INPUT = "bad_input"
    """The request itself: wrong option, context too long, unknown format."""
    MODEL_MISSING = "model_missing"
    """The host does not have the model."""
    UNSUPPORTED = "unsupported"
    """The model cannot do it: tools, thinking, embeddings, chat."""
    BUSY = "busy"
    """The host has too much to do: 503."""
    UNREACHABLE = "unreachable"
    """No connection, or it ended before the answer began."""
    TIMEOUT = "timeout"
    """One of the engine's clocks ran out."""
    OUT_OF_MEMORY = "out_of_memory"
    """The host has no room for the model or its context."""
    CRASHED = "crashed"
    """The runner died, or the host answered 5xx."""
    INCOMPLETE = "incomplete"
    """The answer broke off."""
    UNAUTHORIZED = "unauthorized"
    """The host wants other credentials."""
    CIRCUIT_OPEN = "circuit_open"
    """It was not asked: model or host have failed too often."""

    @property
    def retryable(self) -> bool:
        """Whether another attempt of the same request could end differently."""
        match self:
            case (
                FailureClass.BAD_INPUT
                | FailureClass.MODEL_MISSING
                | FailureClass.UNSUPPORTED
                | FailureClass.UNAUTHORIZED
            ):
                return False
            case (
                FailureClass.BUSY
                | FailureClass.UNREACHABLE
                | FailureClass.TIMEOUT
                | FailureClass.OUT_OF_MEMORY
                | FailureClass.CRASHED
                | FailureClass.INCOMPLETE
                | FailureClass.CIRCUIT_OPEN
            ):
                return True


class EngineError(JobError):
    """The engine failed; `failure` says how, `status` is the HTTP status where there was one."""

    def __init__(self, failure: FailureClass, message: str, *, status: int | None = None) -> None:
        self.failure = failure
        self.status = status
        self.message = message
        super().__init__(f"{failure.value}: {message}")

    def copy(self) -> EngineError:
        """Return the same failure as an error of its own, for each of several who wait for it."""
        return EngineError(self.failure, self.message, status=self.status)

    @property
    def retryable(self) -> bool:  # type: ignore[override]  # decided per failure here, per class elsewhere
        """Whether another attempt could end differently."""
        return self.failure.retryable


class CircuitOpen(EngineError):
    """No host was asked, for `circuit` is open; `retry_after` is how long until it may close.

    A job that ends with it is put back for so long, no attempt spent (`worker.max_circuit_wait`).
    `circuit` is operation and model, such as `chat:llama3`, or `host`.
    """

    def __init__(self, message: str, *, circuit: str, retry_after: timedelta) -> None:
        self.circuit = circuit
        self.retry_after = retry_after
        super().__init__(FailureClass.CIRCUIT_OPEN, message)

    def copy(self) -> CircuitOpen:
        """Return the same as an error of its own."""
        return CircuitOpen(self.message, circuit=self.circuit, retry_after=self.retry_after)

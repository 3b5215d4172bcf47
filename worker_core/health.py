"""Health: what is asked of a worker's parts, and what a worker says of itself."""

from __future__ import annotations

import enum
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["CheckResult", "HealthCheck", "WorkerPhase", "WorkerStatus"]


class WorkerPhase(enum.Enum):
    """Where in its life a worker is."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


@attrs.frozen
class HealthCheck:
    """One named question about readiness, asked of a part of the worker."""

    name: str
    """As it stands in the answer of the readiness probe: `redis`, `ollama`."""
    check: Callable[[], Awaitable[object]]
    """Returns when the part is healthy; raises, in words for an operator, when it is not. It may
    hang: whoever asks has a bound. It never does anything heavy, such as loading a model."""


@attrs.frozen
class CheckResult:
    """The answer to a health check; `reason` says why the part is unhealthy."""

    name: str
    reason: str | None = None

    @property
    def healthy(self) -> bool:
        """Whether the part is healthy."""
        return self.reason is None


class WorkerStatus(Protocol):
    """What a worker says of itself."""

    @property
    def worker_id(self) -> str:
        """The worker's name."""
        ...

    @property
    def version(self) -> str:
        """The version of worker-core."""
        ...

    @property
    def uptime(self) -> timedelta:
        """How long the worker has been running."""
        ...

    @property
    def phase(self) -> WorkerPhase:
        """Where in its life it is."""
        ...

    @property
    def frozen_reason(self) -> str | None:
        """Why the worker is not alive: its event loop hangs or hung a moment ago; else `None`."""
        ...

    async def check_health(self, *, within: timedelta) -> Sequence[CheckResult]:
        """Ask every part at the same time; one that does not answer in time is unhealthy."""
        ...

    async def metrics(self, *, within: timedelta) -> bytes:
        """Return all metrics in Prometheus' text format; what takes longer keeps its last value."""
        ...

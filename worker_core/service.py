"""Services: long-lived tasks beside the jobs, such as a health server or a monitor."""

from __future__ import annotations

import abc
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import attrs
from anyio.abc import TaskStatus

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from structlog.typing import FilteringBoundLogger

    from worker_core.health import WorkerStatus
    from worker_core.redis import Redis

__all__ = ["RestartPolicy", "Service", "ServiceContext"]


@attrs.frozen(kw_only=True)
class RestartPolicy:
    """How a service that crashed is started again, with backoff between.

    A service that crashes more than `max_restarts` times within `window` has spent its budget: it
    requests the worker's stop, and its error is raised at the end.
    """

    max_restarts: int = 5
    window: timedelta = timedelta(minutes=5)
    initial_backoff: timedelta = timedelta(milliseconds=500)
    max_backoff: timedelta = timedelta(seconds=30)


class ServiceContext(Protocol):
    """What a service is handed: the worker around it."""

    @property
    def worker_id(self) -> str:
        """The worker's name."""
        ...

    @property
    def redis(self) -> Redis:
        """The worker's own connection."""
        ...

    @property
    def registry(self) -> CollectorRegistry:
        """The worker's own metrics, to add to."""
        ...

    @property
    def status(self) -> WorkerStatus:
        """What the worker says of itself: phase, health, metrics."""
        ...

    @property
    def log(self) -> FilteringBoundLogger:
        """A logger with the service's name bound."""
        ...

    def request_stop(self, reason: str) -> None:
        """Ask the worker for a phased stop."""
        ...


class Service(abc.ABC):
    """A long-lived task of a plugin."""

    restart: RestartPolicy = RestartPolicy()
    """What follows a crash."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Names it in logs and metrics."""

    @abc.abstractmethod
    async def run(self, context: ServiceContext, *, task_status: TaskStatus[None]) -> None:
        """Run until cancelled; call `task_status.started()` when ready. Returning ends it for good."""

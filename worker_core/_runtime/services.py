"""Keeping services alive: each in its own task, restarted with backoff while its budget lasts."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

import anyio
import attrs
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskStatus
    from prometheus_client import CollectorRegistry
    from structlog.typing import FilteringBoundLogger

    from worker_core._observe.metrics import WorkerMetrics
    from worker_core.health import WorkerStatus
    from worker_core.redis import Redis
    from worker_core.service import RestartPolicy, Service

__all__ = ["ServiceSurroundings", "supervise"]

_log = structlog.get_logger("worker_core.services")


@attrs.frozen(kw_only=True)
class ServiceSurroundings:
    """`ServiceContext` as a service is handed it."""

    worker_id: str
    redis: Redis
    registry: CollectorRegistry
    log: FilteringBoundLogger
    status: WorkerStatus
    stop: Callable[[str], None]

    def request_stop(self, reason: str) -> None:
        """Ask the worker for a phased stop."""
        self.stop(reason)


async def supervise(
    service: Service,
    surroundings: ServiceSurroundings,
    metrics: WorkerMetrics,
    on_spent: Callable[[Exception], None],
    *,
    task_status: TaskStatus[None],
) -> None:
    """Run a service until cancelled or until it returns; start it again when it crashes.

    `started()` comes when its first start has ended, whatever it ended in. When the budget is
    spent, `on_spent` gets the error: the worker then stops in its own time, and nothing is torn
    here.
    """
    first_start = _Once(task_status)
    crashes: deque[float] = deque()
    while True:
        try:
            # A task group of its own: what the service started ends with it.
            async with anyio.create_task_group() as tasks:
                await tasks.start(_run, service, surroundings)
                first_start.started()
        except* Exception as group:  # noqa: BLE001  # a plugin's fault; the policy says what follows
            crashes.append(anyio.current_time())
            spent = _budget_spent(service.restart, crashes)
            if spent:
                on_spent(_first(group))
            else:
                metrics.service_restarted(service.name)
                _log.error(
                    "service crashed; starting it again", service=service.name, exc_info=group
                )
        else:
            return
        first_start.started()
        if spent:
            return
        await anyio.sleep(_backoff(service.restart, len(crashes)))


async def _run(
    service: Service, surroundings: ServiceSurroundings, *, task_status: TaskStatus[None]
) -> None:
    once = _Once(task_status)
    await service.run(surroundings, task_status=once)
    once.started()  # one that returns at once is done, not broken


class _Once:
    """`started()` for a task that may start several times."""

    def __init__(self, task_status: TaskStatus[None]) -> None:
        self._status: TaskStatus[None] | None = task_status

    def started(self, value: None = None) -> None:  # noqa: ARG002  # the protocol's
        if self._status is not None:
            self._status.started()
            self._status = None


def _budget_spent(policy: RestartPolicy, crashes: deque[float]) -> bool:
    horizon = crashes[-1] - policy.window.total_seconds()
    while crashes[0] < horizon:
        crashes.popleft()
    return len(crashes) > policy.max_restarts


def _backoff(policy: RestartPolicy, crashes: int) -> float:
    longest = policy.max_backoff.total_seconds()
    ceiling = min(longest, policy.initial_backoff.total_seconds() * 2.0 ** min(crashes - 1, 32))
    return random.uniform(ceiling / 2, ceiling)  # noqa: S311  # jitter, no secret


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner

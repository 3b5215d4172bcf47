"""What a worker says of itself: its phase, the health of its parts, its metrics."""

from __future__ import annotations

import time
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING

import anyio
import structlog

from worker_core.errors import RedisError, WorkerCoreError
from worker_core.health import CheckResult, HealthCheck, WorkerPhase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker_core._observe.metrics import WorkerMetrics
    from worker_core._runtime.consumer import Consumer
    from worker_core._runtime.watchdog import Watchdog
    from worker_core.engine import Engine, Host
    from worker_core.redis import Link

__all__ = ["Status", "engine_check", "queue_check", "redis_check"]

_log = structlog.get_logger("worker_core.status")


class Status:
    """What `worker_core.health.WorkerStatus` promises."""

    def __init__(self, worker_id: str, metrics: WorkerMetrics, watchdog: Watchdog) -> None:
        self.worker_id = worker_id
        self.version = version("worker-core")
        self.phase = WorkerPhase.STARTING
        self._metrics = metrics
        self._watchdog = watchdog
        self._began_at = time.monotonic()
        self._checks: list[HealthCheck] = []
        self.consumers: Sequence[Consumer] = ()
        self._gauges: list[Callable[[], Awaitable[None]]] = []

    def add_checks(self, *checks: HealthCheck) -> None:
        """Ask these too when health is asked for."""
        self._checks.extend(checks)

    def add_gauge(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Call this before metrics are written, to bring a figure up to date."""
        self._gauges.append(refresh)

    @property
    def uptime(self) -> timedelta:
        """How long the worker has been running."""
        return timedelta(seconds=time.monotonic() - self._began_at)

    @property
    def frozen_reason(self) -> str | None:
        """Why the worker is not alive, or `None`."""
        return self._watchdog.frozen_reason

    async def check_health(self, *, within: timedelta) -> Sequence[CheckResult]:
        """Ask every part at the same time; one that does not answer in time is unhealthy."""
        results: dict[str, CheckResult] = {}

        async def ask(check: HealthCheck) -> None:
            results[check.name] = CheckResult(check.name, await _reason(check, within))

        async with anyio.create_task_group() as asking:
            for check in self._checks:
                asking.start_soon(ask, check)
        # In the order in which they were added, not in that of their answers.
        return [results[check.name] for check in self._checks]

    async def metrics(self, *, within: timedelta) -> bytes:
        """Return all metrics in Prometheus' text format; what takes longer keeps its last value."""
        with anyio.move_on_after(within.total_seconds()):
            async with anyio.create_task_group() as refreshing:
                for refresh in self._gauges:
                    refreshing.start_soon(_quietly, refresh)
        return self._metrics.text()


async def _reason(check: HealthCheck, within: timedelta) -> str | None:
    try:
        with anyio.fail_after(within.total_seconds()):
            await check.check()
    except TimeoutError:
        return f"no answer within {within.total_seconds():g} s"
    except Exception as error:  # noqa: BLE001  # a check is a plugin's: whatever it raises is its answer
        return str(error) or type(error).__name__
    return None


async def _quietly(refresh: Callable[[], Awaitable[None]]) -> None:
    try:
        await refresh()
    except Exception as error:  # noqa: BLE001  # an engine's: one figure must not cost all others
        _log.debug("a figure could not be brought up to date", reason=repr(error))


def redis_check(link: Link) -> HealthCheck:
    """Ask whether Redis answers."""

    async def check() -> None:
        if not link.is_connected:
            raise RedisError("no connection to Redis")
        await link.call("PING")

    return HealthCheck("redis", check)


def engine_check(engine: Engine) -> HealthCheck:
    """Ask whether at least one host of the engine answers; never loads a model."""

    async def check() -> None:
        reasons: list[str] = []
        async with anyio.create_task_group() as asking:

            async def ask(host: Host) -> None:
                try:
                    await host.check()
                except WorkerCoreError as error:
                    reasons.append(str(error))
                else:
                    # One is enough, and must not wait for one that hangs.
                    asking.cancel_scope.cancel()

            for host in engine.hosts:
                asking.start_soon(ask, host)
        if len(reasons) == len(engine.hosts):
            raise WorkerCoreError("; ".join(reasons) or "the engine is not started")

    return HealthCheck(engine.name, check)


def queue_check(status: Status) -> HealthCheck:
    """Ask whether jobs are being taken."""

    async def check() -> None:
        if status.phase is not WorkerPhase.RUNNING:
            raise WorkerCoreError(f"no job is taken: the worker is {status.phase.value}")
        troubles = [one.trouble for one in status.consumers if one.trouble is not None]
        if troubles:
            raise WorkerCoreError("; ".join(troubles))

    return HealthCheck("queue", check)

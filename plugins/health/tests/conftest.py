"""A health server on real HTTP, around a worker that says what a test wants it to say."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import attrs
import httpx
import pytest
import structlog
from worker_core_health import HealthService, HealthSettings

from worker_core.health import CheckResult, WorkerPhase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from worker_core.service import Service


@attrs.define
class StandIn:
    """What a worker says of itself; also the service's context, as far as it looks at that."""

    worker_id: str = "w1"
    version: str = "1.2.3"
    uptime: timedelta = timedelta(seconds=12.5)
    phase: WorkerPhase = WorkerPhase.RUNNING
    frozen_reason: str | None = None
    results: list[CheckResult] = attrs.field(
        factory=lambda: [CheckResult("redis"), CheckResult("ollama"), CheckResult("queue")]
    )
    text: bytes = b"# HELP up Up.\n# TYPE up gauge\nup 1.0\n"
    asked: int = 0
    obstacle: Callable[[], Awaitable[object]] = anyio.lowlevel.checkpoint
    """Awaited before each answer."""

    @property
    def status(self):
        return self

    @property
    def log(self):
        return structlog.get_logger("test")

    async def check_health(self, *, within):
        self.asked += 1
        await self.obstacle()
        return self.results

    async def metrics(self, *, within):
        self.asked += 1
        await self.obstacle()
        return self.text


@pytest.fixture
def worker():
    return StandIn()


@pytest.fixture
def stand_in():
    return StandIn


@pytest.fixture
async def serve(worker) -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    """Start health servers on free ports; they end with the test."""
    async with anyio.create_task_group() as tasks:

        async def start(**settings):
            service = HealthService(HealthSettings(port=0, **settings))
            await tasks.start(service.run, worker)
            return service

        yield start
        tasks.cancel_scope.cancel()


@pytest.fixture
async def client(serve) -> AsyncIterator[httpx.AsyncClient]:
    service = await serve()
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        yield client

"""The fixtures for everybody who tests a plugin.

`valkey`            a real server, empty at the start of each test
`fake_engine`       Ollama's wire contract on real HTTP, in the test's own event loop
`start_worker`      runs a worker in the test's own event loop
`start_process`     runs `worker-core run` as a process
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import attrs
import pytest
import redis
from pytest_trio import trio_fixture as untyped_trio_fixture  # type: ignore[import-untyped]  # ships no types

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
    from pathlib import Path

    from worker_core._runtime.plugins import PluginClass
    from worker_core._runtime.worker import Worker
    from worker_core.embedded import EmbeddedValkey
    from worker_core.testing.fake_engine import FakeEngine
    from worker_core.testing.processes import WorkerProcess

__all__ = [
    "ValkeyFixture",
    "fake_engine",
    "start_process",
    "start_worker",
    "valkey",
    "valkey_server",
]

F = TypeVar("F", bound=Callable[..., object])


def trio_fixture(function: F) -> F:
    """Make a fixture that runs in the test's own event loop."""
    fixture: F = untyped_trio_fixture(function)
    return fixture


# What belongs to worker_core is imported inside the fixtures: this module is loaded in every
# pytest run of the environment, also where nothing here is used.


@attrs.frozen
class ValkeyFixture:
    """A server for tests, and redis-py's view of it as the independent witness."""

    server: EmbeddedValkey
    client: redis.Redis

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.server.url


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[EmbeddedValkey]:
    """One server for the whole run."""
    from worker_core.embedded import EmbeddedValkey  # noqa: PLC0415

    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def valkey(valkey_server: EmbeddedValkey) -> Iterator[ValkeyFixture]:
    """An empty server."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
        yield ValkeyFixture(valkey_server, client)


@trio_fixture
async def fake_engine() -> AsyncIterator[FakeEngine]:
    """An engine that speaks Ollama's contract; script faults with `fake_engine.script`."""
    from worker_core.testing.fake_engine import open_fake_engine  # noqa: PLC0415

    async with open_fake_engine() as engine:
        yield engine


@trio_fixture
async def start_worker(
    valkey: ValkeyFixture,
) -> AsyncIterator[Callable[..., Awaitable[Worker]]]:
    """Start workers: `await start_worker({"worker": {"plugins": ["echo"]}})`; they stop at the end."""
    from worker_core.testing.workers import build_worker, run_worker  # noqa: PLC0415

    workers: list[Worker] = []
    async with anyio.create_task_group() as tasks:

        async def start(settings: Mapping[str, Any], plugins: Sequence[PluginClass] = ()) -> Worker:
            worker = build_worker({"redis": {"url": valkey.url}, **settings}, plugins)
            await tasks.start(run_worker, worker)
            workers.append(worker)
            return worker

        yield start
        for worker in workers:
            worker.request_stop("the test has ended")


@pytest.fixture
def start_process(valkey: ValkeyFixture, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start worker processes on the fixture's server; they are killed at the end."""
    from worker_core.testing.processes import WorkerProcess  # noqa: PLC0415

    with ExitStack() as stack:

        def start(*arguments: str, environment: Mapping[str, str] | None = None) -> WorkerProcess:
            folder = tmp_path / f"worker-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            variables = {"REDIS_URL": valkey.url, **(environment or {})}
            process = WorkerProcess(arguments, environment=variables, folder=folder)
            stack.callback(process.kill)
            return process

        yield start

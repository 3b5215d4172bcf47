"""Real Node BullMQ around a worker process; the engine is the fake one, in a process too."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conformance.node import NodeApp
from tests.interop.support import EngineProcess, Node, install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from worker_core.testing.fixtures import ValkeyFixture
    from worker_core.testing.processes import WorkerProcess


@pytest.fixture(scope="session")
def node_modules() -> None:
    """BullMQ for Node, as package-lock.json pins it."""
    install()


@pytest.fixture
def node(node_modules: None, valkey: ValkeyFixture, tmp_path: Path) -> Iterator[Node]:
    folder = tmp_path / "node"
    folder.mkdir()
    scripts = Node(valkey.url, folder)
    yield scripts
    scripts.close()


@pytest.fixture
def app(node_modules: None, valkey: ValkeyFixture) -> Iterator[NodeApp]:
    """An application with BullMQ, for tests whose worker runs in their own loop."""
    application = NodeApp(valkey.url)
    yield application
    application.close()


@pytest.fixture(scope="session")
def engine_process() -> Iterator[EngineProcess]:
    process = subprocess.Popen(
        [sys.executable, "-m", "worker_core.testing.fake_engine", "--loaded", "llama3"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        engine = EngineProcess(process.stdout.readline().strip())
        yield engine
        engine.close()
        process.terminate()


@pytest.fixture
def engine(engine_process: EngineProcess) -> EngineProcess:
    """The fake engine, as new."""
    engine_process.reset()
    return engine_process


@pytest.fixture
def start(
    start_process: Callable[..., WorkerProcess], engine: EngineProcess, tmp_path: Path
) -> Callable[..., WorkerProcess]:
    """Start a worker for chat and echo jobs and wait until it claims; `config` is TOML."""

    def start_ready(
        *, worker: str = "worker-1", concurrency: int = 4, config: str = ""
    ) -> WorkerProcess:
        file = tmp_path / f"{worker}.toml"
        file.write_text(config)
        process = start_process(
            *("--plugins", "chat,echo", "--engine", "ollama", "--config", str(file)),
            environment={
                "WORKER_ID": worker,
                "WORKER_CONCURRENCY": str(concurrency),
                "OLLAMA_BASE_URL": engine.url,
                # A failure is the job's to retry here, not the engine call's.
                "OLLAMA_MAX_RETRIES": "0",
            },
        )
        process.wait_ready()
        return process

    return start_ready

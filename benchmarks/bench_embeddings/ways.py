"""Who computes the embeddings, on which server, and each of them as one process."""

from __future__ import annotations

import enum
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bench_queue.peers import NODE_FOLDER, QUEUE, Peer, WorkerUnderTest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MODELS", "Engine", "Way", "fake_engine", "running"]

_HERE = Path(__file__).parent
_STOP_SECONDS = 15.0
_BATCH_SIZE = 32
_SLOTS = 2 * _BATCH_SIZE
"""The default of embedding jobs; for everybody, so that nobody runs dry."""
_CALL_SECONDS, _INPUT_SECONDS = 0.002, 0.0002


class Engine(enum.Enum):
    """What computes the vectors."""

    FAKE = "fake"
    LLAMACPP = "llamacpp"

    @property
    def title(self) -> str:
        """Its name in tables."""
        return {Engine.FAKE: "fake engine", Engine.LLAMACPP: "embedded llama.cpp"}[self]


MODELS = {Engine.FAKE: "nomic-embed-text", Engine.LLAMACPP: "gemma3:270m"}


class Way(enum.Enum):
    """How jobs become calls."""

    BATCHED = "batched"
    ONE_BY_ONE = "one"
    NODE = "node"

    @property
    def title(self) -> str:
        """Its name in tables."""
        return _TITLES[self]

    @property
    def peer(self) -> Peer:
        """Whose worker it is."""
        return Peer.NODE if self is Way.NODE else Peer.OURS


_TITLES = {
    Way.BATCHED: "worker-core, micro-batched",
    Way.ONE_BY_ONE: "worker-core, one call a job",
    Way.NODE: "Node BullMQ, one call a job",
}

_SETTINGS = """
[worker]
plugins = ["embeddings"]
engine = "{engine}"

[plugins.{engine}]
{engine_settings}

[plugins.embeddings]
queues = [{{ name = "{queue}", concurrency = {slots} }}]
batch_size = {batch_size}
batch_enabled = {batched}
"""


@contextmanager
def fake_engine() -> Iterator[str]:
    """Run the fake engine as a process of its own; yields its URL."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "worker_core.testing.fake_engine"),
            *("--model", MODELS[Engine.FAKE], "--loaded", MODELS[Engine.FAKE]),
            *("--embed-call-seconds", str(_CALL_SECONDS)),
            *("--embed-input-seconds", str(_INPUT_SECONDS)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate(timeout=_STOP_SECONDS)


@contextmanager
def running(
    way: Way, engine: Engine, *, redis_url: str, engine_url: str
) -> Iterator[WorkerUnderTest]:
    """Run a worker on the queue of the backlog; ended at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log, settings = Path(folder) / "log", Path(folder) / "worker.toml"
        settings.write_text(_settings(way, engine, engine_url))
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(way, settings, engine_url),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**_clean_environment(), "REDIS_URL": redis_url},
            )
        try:
            yield WorkerUnderTest(way.peer, process, log)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _settings(way: Way, engine: Engine, engine_url: str) -> str:
    match engine:
        case Engine.FAKE:
            name, engine_settings = "ollama", f'base_url = "{engine_url}"'
        case Engine.LLAMACPP:
            name, engine_settings = "llamacpp", f'model = "{MODELS[engine]}"'
    return _SETTINGS.format(
        engine=name,
        engine_settings=engine_settings,
        queue=QUEUE,
        slots=_SLOTS,
        batch_size=_BATCH_SIZE,
        batched=json.dumps(way is Way.BATCHED),
    )


def _command(way: Way, settings: Path, engine_url: str) -> list[str]:
    if way is not Way.NODE:
        return [sys.executable, "-m", "worker_core", "run", "--config", str(settings)]
    given = {
        "queue": QUEUE,
        "concurrency": _SLOTS,
        "server": engine_url,
        # The packages are those of the other benchmark.
        "packages": str(NODE_FOLDER / "package.json"),
    }
    return ["node", str(_HERE / "worker.mjs"), json.dumps(given)]


def _clean_environment() -> dict[str, str]:
    """The environment without what would change a default of one of them."""
    prefixes = ("WORKER_", "OLLAMA_", "REDIS_", "NODE_", "BATCH_", "ENABLE_", "ALLOWED_")
    return {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}

"""What the chaos runs break: a Valkey that keeps its data, a fake engine and workers, each a process
of its own. Workers connect through gates, which stand in the event loop of whoever opens this."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import httpx
import redis

from tests.chaos.gate import Gate, run_gate
from worker_core.embedded import EmbeddedValkey
from worker_core.testing.polling import eventually_async
from worker_core.testing.processes import WorkerProcess

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from anyio.abc import TaskGroup

__all__ = ["Cluster", "ClusterOptions", "ClusterWorker", "EngineProcess", "open_cluster"]

_CONFIG = """\
[worker]
concurrency = {concurrency}
grace = "5s"
[queue]
lock_duration = "{lock_seconds}s"
lock_renew_time = "{renew_seconds}s"
stalled_interval = "{interval_seconds}s"
max_stalled_count = {max_stalled_count}
[plugins.ollama]
base_url = "{engine_url}"
max_concurrent_requests = {concurrency}
"""


@attrs.frozen(kw_only=True)
class ClusterOptions:
    """How big it is and how soon it notices. Times are seconds."""

    concurrency: int = 4
    lock_seconds: float = 2.0
    interval_seconds: float = 1.0
    max_stalled_count: int = 5
    token_seconds: float = 0.03
    """The engine's, between two words of an answer."""


class EngineProcess:
    """The fake engine, and what its own log says."""

    def __init__(self, folder: Path, token_seconds: float) -> None:
        arguments = ("--port", "0", "--parallel", "64", "--token-seconds", str(token_seconds))
        with (folder / "engine.log").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker_core.testing.fake_engine", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def requests(self, since: int = 0) -> list[dict[str, Any]]:
        """Its chats, in order of their arrival; model loads, which ask nothing, left out."""
        log = httpx.get(f"{self.url}/_fake/log?since={since}", trust_env=False).json()
        return [r for r in log["requests"] if r["path"] == "/api/chat" and r["inputs"]]

    def total(self) -> int:
        """How many requests came so far."""
        counts = httpx.get(f"{self.url}/_fake/state", trust_env=False).json()["counts"]
        total: int = counts["total"]
        return total

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()


@attrs.frozen(eq=False)
class ClusterWorker:
    """One worker process behind its gate."""

    id: str
    process: WorkerProcess
    gate: Gate

    async def ready(self) -> None:
        """Wait until it claims."""
        await eventually_async(
            lambda: "ready" in self.process.log or self.process.process.poll() is not None,
            within=30,
            what=f"{self.id} is ready",
        )
        assert self.process.process.poll() is None, self.process.log

    async def ended(self, *, within: float) -> int:
        """Wait for its end and return its exit code."""
        ended = self.process.process
        await eventually_async(
            lambda: ended.poll() is not None, within=within, what=f"{self.id} has ended"
        )
        assert ended.returncode is not None
        return ended.returncode

    async def kill(self) -> None:
        """Kill it (-9) and wait until its last call has reached the server."""
        self.process.process.kill()
        await self.ended(within=10)
        await eventually_async(lambda: not self.gate.connections, what=f"{self.id} is cut off")


class Cluster:
    """Made by `open_cluster`."""

    def __init__(
        self,
        folder: Path,
        options: ClusterOptions,
        valkey: EmbeddedValkey,
        engine: EngineProcess,
        processes: ExitStack,
        gates: TaskGroup,
    ) -> None:
        self.folder = folder
        self.options = options
        self.valkey = valkey
        self.engine = engine
        self.client = redis.Redis.from_url(valkey.url)
        """The independent witness."""
        self.workers: list[ClusterWorker] = []
        """Those that live, oldest first."""
        self._processes = processes
        self._gates = gates
        self._started = 0
        self._config = folder / "worker.toml"
        self._config.write_text(
            _CONFIG.format(
                **attrs.asdict(options),
                renew_seconds=options.lock_seconds / 2,
                engine_url=engine.url,
            )
        )

    async def start_worker(self) -> ClusterWorker:
        """Start one more worker; it is not ready yet."""
        self._started += 1
        name = f"worker-{self._started}"
        folder = self.folder / name
        folder.mkdir()
        gate: Gate = await self._gates.start(run_gate, self.valkey.port)
        process = WorkerProcess(
            ("--plugins", "chat", "--engine", "ollama", "--config", str(self._config)),
            environment={"WORKER_ID": name, "REDIS_URL": gate.url},
            folder=folder,
        )
        self._processes.callback(process.kill)
        worker = ClusterWorker(name, process, gate)
        self.workers.append(worker)
        return worker

    async def kill(self, worker: ClusterWorker) -> None:
        """Kill a worker."""
        self.workers.remove(worker)
        await worker.kill()

    async def restart_valkey(self) -> None:
        """Kill the server and start it again on its data."""
        self.valkey.kill()
        await anyio.to_thread.run_sync(self.valkey.start)

    async def stop_workers(self, number: signal.Signals) -> Sequence[int]:
        """Stop every worker and return the exit codes: nobody writes after that."""
        for worker in self.workers:
            worker.process.signal(number)
        return [await worker.ended(within=30) for worker in self.workers]


@asynccontextmanager
async def open_cluster(
    folder: Path, options: ClusterOptions | None = None
) -> AsyncIterator[Cluster]:
    """Start server and engine, both below `folder`; every process ends with the context."""
    chosen = options or ClusterOptions()
    failure: Exception | None = None
    with ExitStack() as processes:
        valkey = EmbeddedValkey(folder / "valkey", arguments=("--appendfsync", "always"))
        processes.enter_context(valkey)
        engine = EngineProcess(folder, chosen.token_seconds)
        processes.callback(engine.close)
        async with anyio.create_task_group() as gates:
            cluster = Cluster(folder, chosen, valkey, engine, processes, gates)
            processes.callback(cluster.client.close)
            try:
                yield cluster
            except Exception as error:  # noqa: BLE001  # raised again below, outside of the group
                failure = error
            gates.cancel_scope.cancel()
    if failure is not None:
        raise failure

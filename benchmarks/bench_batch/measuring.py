"""Taking the time and the memory of a batch: real commands, a real worker, each a process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import orjson

from benchmarks.bench_batch.report import Run, Step
from worker_core.client import BatchStatus, JobRef, SyncClient
from worker_core.embedded import EmbeddedValkey
from worker_core.testing.processes import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["measure", "peak_kib"]

_RUN_SECONDS = 1800.0
_POLL_SECONDS = 0.2
_WORDS = ("yes", "no", "maybe", "never", "always")

_TELLING = """
import atexit, pathlib, sys
peak = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: peak.write_text(pathlib.Path("/proc/self/status").read_text()))
from worker_core.cli import main
main(prog_name="worker-core")
"""
"""Runs a command that leaves behind what the kernel knew of it at its end."""


def measure(requests: int, tell: Callable[[str], None]) -> Run:
    """Take a batch of so many requests from its file to its answers; `tell` hears of each step."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-batch-")))
        file = folder / "requests.jsonl"
        _write_requests(file, requests)
        server = stack.enter_context(EmbeddedValkey())
        engine = stack.enter_context(_fake_engine())
        worker = stack.enter_context(_worker(server.url, engine))
        commands = _Commands(folder, server.url)
        client = stack.enter_context(SyncClient(server.url))

        def told(step: Step) -> Step:
            tell(f"{step.name}: {step.seconds:.1f} s, {step.peak_mb:.0f} MB")
            return step

        printed, submit = commands.run("submit", str(file))
        told(submit)
        ref = JobRef(printed.strip(), "llm-batch")
        seconds = _wait(client, ref)
        ran = told(Step("run", seconds, peak_kib(_status_of(worker.process.pid))))
        _, status = commands.run("status", ref.id)
        status = told(attrs.evolve(status, takes_each=False))
        output = folder / "output.jsonl"
        _, fetch = commands.run("fetch", ref.id, "--output", str(output))
        told(fetch)
        return Run(
            requests=requests,
            file_bytes=file.stat().st_size,
            steps=(submit, ran, status, fetch),
            unmatched=_unmatched(file, output),
        )


def peak_kib(status: str) -> int:
    """Read the most memory that a process ever had resident from its `/proc/PID/status`."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0])
    raise ValueError("this system does not tell a process's peak memory (VmHWM)")


def _status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def _write_requests(file: Path, requests: int) -> None:
    with file.open("wb") as lines:
        for number in range(requests):
            word = _WORDS[number % len(_WORDS)]
            body = {"model": "llama3", "messages": [{"role": "user", "content": word}]}
            line = {
                "custom_id": f"request-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
            lines.write(orjson.dumps(line) + b"\n")


def _wait(client: SyncClient, ref: JobRef) -> float:
    """Wait for the end of a batch, and return the seconds since it was on its queue."""
    until = time.monotonic() + _RUN_SECONDS
    while time.monotonic() < until:
        view = client.batch(ref)
        if view is not None and view.ended_at is not None:
            if view.status is not BatchStatus.COMPLETED or view.created_at is None:
                raise RuntimeError(f"the batch ended as {view.status.value}: {view.error}")
            return (view.ended_at - view.created_at).total_seconds()
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"the batch did not end within {_RUN_SECONDS:g} s")


def _unmatched(file: Path, output: Path) -> int:
    """Count requests without one line of their own, that answers what was asked, and other lines."""
    asked = {}
    with file.open("rb") as lines:
        for line in lines:
            request = orjson.loads(line)
            asked[request["custom_id"]] = request["body"]["messages"][0]["content"]
    wrong = 0
    with output.open("rb") as lines:
        for line in lines:
            answer = orjson.loads(line)
            said = answer["response"]["body"]["choices"][0]["message"]["content"]
            # The fake engine says what it is told; a second line for one id finds nothing left.
            wrong += asked.pop(answer["custom_id"], None) != said
    return wrong + len(asked)


@attrs.frozen
class _Commands:
    """`worker-core batch ...` as processes."""

    folder: Path
    redis_url: str

    def run(self, *arguments: str) -> tuple[str, Step]:
        """Run a command; return what it printed, and its figures."""
        peak = self.folder / "peak"
        command: Sequence[str] = (sys.executable, "-c", _TELLING, str(peak), "batch", *arguments)
        began = time.perf_counter()
        ran = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=self.folder,
            env={**os.environ, "REDIS_URL": self.redis_url},
        )
        seconds = time.perf_counter() - began
        return ran.stdout, Step(f"batch {arguments[0]}", seconds, peak_kib(peak.read_text()))


@contextmanager
def _fake_engine() -> Iterator[str]:
    """Run the fake engine as a process and yield its URL."""
    options = ("--loaded", "llama3", "--parallel", "8")
    command = [sys.executable, "-m", "worker_core.testing.fake_engine", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _worker(redis_url: str, engine: str) -> Iterator[WorkerProcess]:
    """Run a worker with its defaults."""
    worker = WorkerProcess(
        ["--plugins", "chat,batch"], environment={"REDIS_URL": redis_url, "OLLAMA_BASE_URL": engine}
    )
    try:
        worker.wait_ready()
        yield worker
    finally:
        worker.process.terminate()
        worker.wait()

"""`make bench-dead-engine`: how many Redis commands a worker spends on a long queue while its engine
is gone, and whether every job is answered when it is back. Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import redis

from worker_core.client import SyncClient
from worker_core.embedded import EmbeddedValkey
from worker_core.testing.polling import eventually
from worker_core.testing.processes import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

GOAL = 20
"""Redis commands a second, those that scripts make included."""
_BASE = "bull:llm-chat"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def fake_engine(port: int) -> Iterator[None]:
    """Run the fake engine as a process."""
    module = ("-m", "worker_core.testing.fake_engine")
    command = [sys.executable, *module, "--parallel", "1000", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
    finally:
        process.terminate()
        process.wait()


def commands(witness: redis.Redis) -> int:
    """Return how many commands the server has carried out, but for those that ask it that."""
    stats = witness.info("commandstats")
    return sum(one["calls"] for name, one in stats.items() if name != "cmdstat_info")


@click.command()
@click.option("--jobs", default=10_000, show_default=True)
@click.option("--slots", default=16, show_default=True)
@click.option("--seconds", default=60, show_default=True, help="How long the engine stays away.")
def main(jobs: int, slots: int, seconds: int) -> None:
    """Put JOBS chat jobs, of one attempt each, before a worker whose engine is gone."""
    port = free_port()
    with EmbeddedValkey() as server, SyncClient(server.url) as client:
        data = {"model": "llama3", "messages": [{"role": "user", "content": "one two three four"}]}
        for _ in range(jobs):
            client.submit("chat", data)
        witness = redis.Redis.from_url(server.url)
        environment = {
            "REDIS_URL": server.url,
            "OLLAMA_BASE_URL": f"http://127.0.0.1:{port}",
            "WORKER_CONCURRENCY": str(slots),
            "MAX_CONCURRENT_REQUESTS": str(slots),
        }
        worker = WorkerProcess(["--plugins", "chat"], environment=environment)
        try:
            worker.wait_ready()
            eventually(lambda: "a circuit opened" in worker.log, within=60)
            before = commands(witness)
            time.sleep(seconds)
            rate = (commands(witness) - before) / seconds
            click.echo(f"engine gone for {seconds} s: {rate:.1f} Redis commands/s (goal: < {GOAL})")
            began = time.monotonic()
            with fake_engine(port):
                # At the latest as long after its return as a circuit stays open.
                eventually(lambda: _ended(witness) == jobs, within=600)
            took = time.monotonic() - began
        finally:
            worker.kill()
        completed = witness.zcard(f"{_BASE}:completed")
        click.echo(f"engine back: {completed} of {jobs} jobs completed within {took:.0f} s")
    sys.exit(0 if rate < GOAL and completed == jobs else 1)


def _ended(witness: redis.Redis) -> int:
    return witness.zcard(f"{_BASE}:completed") + witness.zcard(f"{_BASE}:failed")


if __name__ == "__main__":
    main(prog_name="make bench-dead-engine")

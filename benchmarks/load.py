"""`make load-test`: chat jobs through a real queue, a worker process and the fake engine.

Prints how many jobs a second came through and how long they took. A first look at a machine and a
change, not a comparison: those stand side by side with a peer in one run.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from statistics import quantiles
from typing import TYPE_CHECKING

import click

from worker_core.client import JobRef, SyncClient
from worker_core.embedded import EmbeddedValkey
from worker_core.testing.polling import eventually
from worker_core.testing.processes import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def fake_engine() -> Iterator[str]:
    """Run the fake engine as a process and yield its URL."""
    command = [sys.executable, "-m", "worker_core.testing.fake_engine", "--parallel", "1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


@click.command()
@click.option("--jobs", default=2000, show_default=True)
@click.option("--slots", default=32, show_default=True)
def main(jobs: int, slots: int) -> None:
    """Run JOBS chat jobs on SLOTS slots."""
    with EmbeddedValkey() as server, fake_engine() as engine, SyncClient(server.url) as client:
        data = {"model": "llama3", "messages": [{"role": "user", "content": "one two three four"}]}
        refs = [client.submit("chat", data) for _ in range(jobs)]
        environment = {
            "REDIS_URL": server.url,
            "OLLAMA_BASE_URL": engine,
            "WORKER_CONCURRENCY": str(slots),
            "MAX_CONCURRENT_REQUESTS": str(slots),
        }
        began = time.monotonic()
        worker = WorkerProcess(["--plugins", "chat"], environment=environment)
        try:
            # Those of the last slots may end in any order.
            last = refs[-slots:]
            eventually(lambda: all(_ended(client, ref) for ref in last), within=600)
            seconds = time.monotonic() - began
        finally:
            worker.process.terminate()
            worker.wait()
        views = [view for ref in refs if (view := client.get(ref)) is not None]
    took = [
        (view.finished_at - view.processed_at).total_seconds() * 1000
        for view in views
        if view.finished_at is not None and view.processed_at is not None
    ]
    cuts = quantiles(took, n=100)
    click.echo(f"{len(took)} of {jobs} jobs ended in {seconds:.1f} s, the start included")
    click.echo(f"{len(took) / seconds:.0f} jobs/s on {slots} slots")
    click.echo(f"from claim to end: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms")
    if len(took) < jobs:
        sys.exit(1)


def _ended(client: SyncClient, ref: JobRef) -> bool:
    view = client.get(ref)
    return view is not None and view.finished_at is not None


if __name__ == "__main__":
    main()

"""`worker-core demo`: the main job, end to end, on real parts, shown live.

Starts an embedded Valkey and a worker process, puts a handful of jobs on its queues - chat, one
that streams, embeddings, a batch, one that is cancelled as it runs -, shows which run and how far
they are, checks every answer, and drains.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import attrs
import click
from rich.console import Console

from worker_core.cli.demo.exhibits import Exhibit, exhibits
from worker_core.cli.demo.screen import draw, shown
from worker_core.cli.demo.worker import WorkerProcess
from worker_core.client import Client, open_client
from worker_core.embedded import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["command"]

_DEFAULT_MODELS = {
    "llamacpp": ("gemma3:270m", "gemma3:270m"),
    "ollama": ("llama3.2", "nomic-embed-text"),
}
"""For chat and for embeddings, by engine."""


@attrs.frozen
class _Plan:
    """What to run, and on what."""

    engine: str
    model: str
    embed_model: str
    config: Path | None
    timeout: timedelta


@click.command("demo")
@click.option("--engine", default="llamacpp", show_default=True, help="The engine plugin.")
@click.option("--model", help="The model to ask.")
@click.option("--embed-model", help="The model that computes vectors.")
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A TOML file."
)
@click.option("--timeout", default=180.0, show_default=True, help="Seconds for all jobs together.")
def command(
    engine: str, model: str | None, embed_model: str | None, config: Path | None, timeout: float
) -> None:
    """Run a handful of jobs on a real model; exit with 1 unless the answers are right."""
    chats, embeds = _DEFAULT_MODELS.get(engine, (None, None))
    model, embed_model = model or chats, embed_model or embeds or model
    if model is None or embed_model is None:
        raise click.UsageError(f"name a model for the engine {engine!r}: --model")
    plan = _Plan(engine, model, embed_model, config, timedelta(seconds=timeout))
    # Wide enough for the table also where the output goes to a file.
    console = Console() if sys.stdout.isatty() else Console(width=122)
    with EmbeddedValkey() as server, tempfile.TemporaryDirectory(prefix="demo-") as folder:
        log = Path(folder) / "worker.log"
        console.print(f"Valkey at {server.url}; engine {engine}, model {model}")
        good = anyio.run(partial(_run, plan, server.url, log, console), backend="trio")
        if not good:
            console.print("[red]the demo failed[/red]; the worker's log:")
            console.print(log.read_text("utf-8", "replace"), markup=False, highlight=False)
            sys.exit(1)


async def _run(plan: _Plan, url: str, log: Path, console: Console) -> bool:
    """Run the demo, and tell whether everything came out as it must."""
    all_of_them = exhibits(plan.model, plan.embed_model)
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(WorkerProcess(url, plan.engine, plan.config, log))
        client = await stack.enter_async_context(open_client(url))
        console.print(f"{len(all_of_them)} jobs on the worker's queues\n")
        await _watch(plan, client, all_of_them, worker, console)
        drained = await worker.drain()
    good = sum(exhibit.good for exhibit in all_of_them)
    console.print(f"\n{good} of {len(all_of_them)} jobs came out as they must")
    console.print(f"worker drained, exit code {drained}")
    return good == len(all_of_them) and drained == 0


async def _watch(
    plan: _Plan,
    client: Client,
    all_of_them: Sequence[Exhibit],
    worker: WorkerProcess,
    console: Console,
) -> None:
    """Show the jobs until all have ended, the worker has, or the time is over."""
    with shown(console, lambda: draw(all_of_them)) as refresh:
        async with anyio.create_task_group() as showing:
            showing.start_soon(refresh)
            with anyio.move_on_after(plan.timeout.total_seconds()):
                async with anyio.create_task_group() as running:
                    running.start_soon(worker.cancel_when_it_ends, running.cancel_scope)
                    async with anyio.create_task_group() as jobs:
                        for exhibit in all_of_them:
                            jobs.start_soon(exhibit.show, client)
                    running.cancel_scope.cancel()
            showing.cancel_scope.cancel()
        for exhibit in all_of_them:
            exhibit.give_up()

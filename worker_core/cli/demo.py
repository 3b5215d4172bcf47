"""`worker-core demo`: the main job, end to end, on real parts, shown live.

Starts an embedded Valkey and a worker process, puts a handful of chat jobs on the queue, shows
which run and how far they are, checks every answer, and drains.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker_core.client import ClientError, JobRef, JobState, Result, SyncClient
from worker_core.embedded import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["command"]

_POLL_SECONDS = 0.1
_STOP_SECONDS = 60.0
_DEFAULT_MODELS = {"llamacpp": "gemma3:270m", "ollama": "llama3.2"}


@attrs.frozen
class _Question:
    """A prompt whose answer is sure: small models complete it, larger ones answer it."""

    prompt: str
    expected: str
    """A regular expression for what the answer must hold."""


_QUESTIONS = (
    _Question(
        "The capital of Italy is Rome. The capital of Germany is Berlin. The capital of France is",
        r"\bparis\b",
    ),
    _Question("Roses are red, violets are", r"\bblue\b"),
    _Question("Two plus two equals", r"\bfour\b|\b4\b"),
    _Question("To be or not to be, that is the", r"\bquestion\b"),
    _Question("The opposite of hot is", r"\bcold\b"),
    _Question("Monday, Tuesday, Wednesday,", r"\bthursday\b"),
)


@attrs.define
class _Row:
    """What is shown of one job."""

    question: _Question
    ref: JobRef
    state: str = "waiting"
    tokens: int = 0
    result: Result | None = None
    failure: str | None = None

    @property
    def ended(self) -> bool:
        return self.result is not None or self.failure is not None

    @property
    def answer(self) -> str:
        """The answer's text, or why there is none."""
        if self.result is None:
            return self.failure or ""
        answer = self.result.answer
        message = answer.get("message") if isinstance(answer, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        return str(content).strip()

    @property
    def good(self) -> bool:
        """Whether the answer holds what it must."""
        return self.result is not None and bool(
            re.search(self.question.expected, self.answer, re.IGNORECASE)
        )


@click.command("demo")
@click.option("--engine", default="llamacpp", show_default=True, help="The engine plugin.")
@click.option("--model", help="The model to ask.")
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A TOML file."
)
@click.option("--timeout", default=180.0, show_default=True, help="Seconds for all jobs together.")
def command(engine: str, model: str | None, config: Path | None, timeout: float) -> None:
    """Run a handful of chat jobs on a real model; exit with 1 unless the answers are right."""
    # Wide enough for the table also where the output goes to a file.
    console = Console() if sys.stdout.isatty() else Console(width=118)
    model = model or _DEFAULT_MODELS.get(engine)
    if model is None:
        raise click.UsageError(f"name a model for the engine {engine!r}: --model")
    with EmbeddedValkey() as server, tempfile.TemporaryDirectory(prefix="demo-") as folder:
        log = Path(folder) / "worker.log"
        console.print(f"Valkey at {server.url}; engine {engine}, model {model}")
        with _worker(server.url, engine, config, log) as worker, SyncClient(server.url) as client:
            rows = _submit(client, model)
            console.print(f"{len(rows)} jobs on the queue llm-chat\n")
            _watch(console, client, rows, worker, timeout)
            drained = _drain(worker)
        good = [row for row in rows if row.good]
        console.print(f"\n{len(good)} of {len(rows)} answers hold what they must")
        console.print(f"worker drained, exit code {drained}")
        if len(good) < len(rows) or drained != 0:
            console.print("[red]the demo failed[/red]; the worker's log:")
            console.print(log.read_text("utf-8", "replace"), markup=False, highlight=False)
            sys.exit(1)


@contextmanager
def _worker(
    redis_url: str, engine: str, config: Path | None, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker process; it is killed if it is still there at the end."""
    line = [sys.executable, "-m", "worker_core", "run", "--engine", engine]
    line += ["--redis-url", redis_url]
    line += ["--config", str(config)] if config else ["--plugins", "chat"]
    # An environment made for another worker must not reach this one, except for the engine's.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WORKER_", "REDIS_"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            # Ctrl-C is for the demo, which then lets the worker drain.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _submit(client: SyncClient, model: str) -> list[_Row]:
    return [
        _Row(
            question,
            client.submit(
                "chat",
                {
                    "model": model,
                    "messages": [{"role": "user", "content": question.prompt}],
                    "temperature": 0,
                    "max_tokens": 24,
                    # A base model goes on for ever; the first line is the answer.
                    "stop": "\n",
                },
            ),
        )
        for question in _QUESTIONS
    ]


def _watch(
    console: Console,
    client: SyncClient,
    rows: Sequence[_Row],
    worker: subprocess.Popen[bytes],
    timeout: float,
) -> None:
    """Show the jobs until all have ended, the worker has, or the time is over."""
    deadline = time.monotonic() + timeout
    with Live(_table(rows), console=console, refresh_per_second=10, transient=False) as live:
        while not all(row.ended for row in rows):
            for row in rows:
                if not row.ended:
                    _update(client, row)
            live.update(_table(rows))
            if worker.poll() is not None or time.monotonic() > deadline:
                for row in rows:
                    row.failure = row.failure or (None if row.ended else "not answered in time")
            time.sleep(_POLL_SECONDS)
        live.update(_table(rows))


def _update(client: SyncClient, row: _Row) -> None:
    view = client.get(row.ref)
    if view is None:
        row.failure = "the job is gone"
        return
    row.state = view.state.value
    if view.state is JobState.ACTIVE and isinstance(view.progress, dict):
        phase, tokens = view.progress.get("phase"), view.progress.get("tokens")
        row.state = phase if isinstance(phase, str) else row.state
        row.tokens = tokens if isinstance(tokens, int) else row.tokens
    if view.state in {JobState.COMPLETED, JobState.FAILED}:
        try:
            row.result = client.result(row.ref, timeout=timedelta(seconds=5))
        except ClientError as error:
            row.failure = str(error)


def _table(rows: Sequence[_Row]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("job")
    table.add_column("prompt", no_wrap=True, width=28)
    table.add_column("state", min_width=10)
    table.add_column("tokens", justify="right")
    table.add_column("answer", no_wrap=True, width=24)
    for name in ("queued", "admission", "first", "total"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        state = row.state
        if row.ended:
            state = "[green]right[/green]" if row.good else "[red]wrong[/red]"
        tokens = row.result.usage.completion_tokens if row.result else row.tokens
        # The end of a prompt is what is being completed.
        prompt = row.question.prompt[-28:]
        table.add_row(row.ref.id, prompt, state, str(tokens), row.answer, *_times(row.result))
    return table


def _times(result: Result | None) -> tuple[str, ...]:
    if result is None:
        return ("", "", "", "")
    times = result.timings
    return tuple(
        "" if value is None else f"{value / 1000:.2f} s"
        for value in (
            times.queue_wait_ms,
            times.admission_ms,
            times.first_token_ms,
            times.total_ms,
        )
    )


def _drain(worker: subprocess.Popen[bytes]) -> int | None:
    """Stop the worker as an operator does, and return its exit code."""
    if worker.poll() is None:
        worker.send_signal(signal.SIGTERM)
    try:
        return worker.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        return None

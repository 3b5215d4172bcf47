"""`worker-core jobs`: add jobs, look at them, cancel them; needs no configuration and imports no plugin."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from worker_core.cli.cancel import cancel
from worker_core.cli.job_client import job_client
from worker_core.cli.job_list import list_jobs
from worker_core.cli.job_views import lines_of, plain_view
from worker_core.cli.options import Duration, fail, timeout_option
from worker_core.cli.redis_options import redis_options
from worker_core.cli.tail import print_tokens, tail
from worker_core.client import AddOptions, JobRef, NotStreamed, Result, SyncClient
from worker_core.errors import InvalidRequest
from worker_core.strict_json import loads

if TYPE_CHECKING:
    from worker_core.engine import JSON

__all__ = ["command"]


@click.group("jobs")
def command() -> None:
    """Add jobs, look at them, cancel them."""


command.add_command(cancel)
command.add_command(list_jobs)
command.add_command(tail)


@command.command()
@click.argument("job_type", metavar="TYPE")
@click.option("--model", help="The model to ask.")
@click.option("--prompt", help="What the user says; makes the chat's messages.")
@click.option("--system", help="What the system message says.")
@click.option(
    "--option", "settings", multiple=True, metavar="NAME=VALUE", help="One of the model's options."
)
@click.option(
    "--data", help="The job's data as JSON, or - to read it; the options above add to it."
)
@click.option("--attempts", default=1, show_default=True, help="How often it may be tried.")
@click.option("--priority", default=0, help="1 is the most urgent; without one a job is first.")
@click.option(
    "--delay",
    type=Duration(),
    metavar="DURATION",
    default="0s",
    help="Start no sooner: 5s, 1m30s.",
)
@click.option("--queue", help="Where to; needed for types other than chat.")
@click.option("--stream", is_flag=True, help="Let it stream; with --wait print it as it comes.")
@click.option("--wait", is_flag=True, help="Wait for the answer and print it.")
@timeout_option("How long.", default="5m")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: with --wait the whole result.")
@redis_options
def add(
    *,
    job_type: str,
    model: str | None,
    prompt: str | None,
    system: str | None,
    settings: tuple[str, ...],
    data: str | None,
    attempts: int,
    priority: int,
    delay: timedelta,
    queue: str | None,
    stream: bool,
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Add a job of TYPE and print its id; with --wait its answer.

    worker-core jobs add chat --model llama3 --prompt "Why is the sky blue?" --wait
    """
    whole = _job_data(data, model, prompt, system, settings, stream=stream)
    try:
        options = AddOptions(attempts=attempts, priority=priority, delay=delay)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with job_client(config, prefix, redis_url) as client:
        ref = client.submit(job_type, whole, queue=queue, options=options)
        if wait:
            click.echo(str(ref), err=True)
            printed = stream and not as_json and _print_stream(client, ref, timeout)
            result = client.result(ref, timeout=timeout, on_progress=_ProgressLine().show)
            _print_result(result, as_json=as_json, printed=printed)
        else:
            click.echo(json.dumps(attrs.asdict(ref)) if as_json else ref.id)


@command.command()
@click.argument("job_id", metavar="ID")
@click.option("--queue", default="llm-chat", show_default=True, help="Where it is.")
@click.option("--trace", is_flag=True, help="Print the trace of each failed attempt.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all there is.")
@redis_options
def show(
    *,
    job_id: str,
    queue: str,
    trace: bool,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Print where a job stands: state, attempts, progress, why it failed."""
    ref = JobRef(job_id, queue)
    with job_client(config, prefix, redis_url) as client:
        view = client.get(ref)
    if view is None:
        fail(f"{ref} does not exist")
    if as_json:
        click.echo(json.dumps(plain_view(view), indent=2))
        return
    for name, value in lines_of(view):
        click.echo(f"{name:<10} {value}")
    if trace:
        for number, text in enumerate(view.stacktrace, 1):
            click.echo(f"\ntrace {number}:\n{text.rstrip()}")


def _job_data(
    data: str | None,
    model: str | None,
    prompt: str | None,
    system: str | None,
    settings: tuple[str, ...],
    *,
    stream: bool,
) -> JSON:
    """Return what `--data` says with what the other options add; a usage error for what clashes."""
    whole = _given_data(data)
    messages: list[JSON] = [
        {"role": role, "content": content}
        for role, content in (("system", system), ("user", prompt))
        if content is not None
    ]
    added: dict[str, JSON] = {"model": model} if model is not None else {}
    if messages:
        added["messages"] = messages
    if settings:
        added["options"] = dict(_setting(text) for text in settings)
    if stream:
        added["stream"] = True
    if not added:
        return whole
    if not isinstance(whole, dict):
        raise click.UsageError("--data must be a JSON object where other options add to it")
    for name in added:
        if name in whole:
            raise click.UsageError(f"{name!r} is in --data already; say it once")
    return {**whole, **added}


def _given_data(data: str | None) -> JSON:
    if data is None:
        return {}
    text = sys.stdin.buffer.read() if data == "-" else data
    try:
        return loads(text)
    except InvalidRequest as error:
        raise click.UsageError(f"--data: {'; '.join(map(str, error.faults))}") from None


def _setting(text: str) -> tuple[str, JSON]:
    """Read NAME=VALUE; what is not JSON is text: temperature=0, stop=END."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"--option takes NAME=VALUE, found {text!r}")
    try:
        return name, loads(value)
    except InvalidRequest:
        return name, value


class _ProgressLine:
    """Prints how far a job is, to standard error, when that has changed."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, value: JSON) -> None:
        match value:
            case {"phase": str(phase), "tokens": int(tokens)}:
                line = f"{phase}, {tokens} tokens" if tokens else phase
            case _:
                line = json.dumps(value)
        if line != self._last:
            click.echo(line, err=True)
            self._last = line


def _print_stream(client: SyncClient, ref: JobRef, timeout: timedelta) -> bool:
    """Print the answer as it comes, and tell whether there was a stream of it."""
    try:
        print_tokens(client.tokens(ref, timeout=timeout))
    except NotStreamed:
        return False
    return True


def _print_result(result: Result, *, as_json: bool, printed: bool) -> None:
    if as_json:
        click.echo(result.raw)
        return
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not printed:
        click.echo(result.text if result.text is not None else json.dumps(result.answer))

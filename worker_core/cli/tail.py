"""`worker-core jobs tail`: a job's token stream, printed as it comes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs
import click

from worker_core.cli.job_client import job_client
from worker_core.cli.options import fail, timeout_option
from worker_core.cli.redis_options import redis_options
from worker_core.client import JobRef, TokenChunk, TokenEnd, TokenRestart, TokenStop
from worker_core.job import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta
    from pathlib import Path

    from worker_core.client import TokenItem

__all__ = ["print_tokens", "tail"]

_KINDS = {TokenChunk: "chunk", TokenRestart: "restart", TokenStop: "stop", TokenEnd: "end"}


@click.command("tail")
@click.argument("job_id", metavar="ID")
@click.option("--queue", default="llm-chat", show_default=True, help="Where it is.")
@click.option("--after", metavar="ENTRY", help="Begin behind this entry of the stream.")
@timeout_option("How long to wait for the end; for ever by default.", positive=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a line for each item.")
@redis_options
def tail(
    *,
    job_id: str,
    queue: str,
    after: str | None,
    timeout: timedelta | None,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Print what a streaming job puts out, from its beginning on and to its end.

    The answer goes to standard output; thinking, tool calls and what happens to the job go to
    standard error. Exits with 1 where the job fails.
    """
    ref = JobRef(job_id, queue)
    with job_client(config, prefix, redis_url) as client:
        tokens = client.tokens(ref, after=after, timeout=timeout)
        end = _print_json(tokens) if as_json else print_tokens(tokens)
    if end is not None and end.outcome is not Outcome.COMPLETED:
        fail(f"{ref} {end.outcome.value}: {end.reason or 'no reason was given'}")


def print_tokens(tokens: Iterable[TokenItem]) -> TokenEnd | None:
    """Print items for people, and return the end."""
    printer = _Printer()
    end = None
    for item in tokens:
        match item:
            case TokenChunk():
                printer.show_chunk(item)
            case TokenRestart():
                printer.tell(f"attempt {item.attempt} begins: what came before does not count")
            case TokenStop():
                printer.tell(f"{item.outcome.value}: {item.reason or 'the job will run again'}")
            case TokenEnd():
                printer.break_line()
                end = item
    return end


def _print_json(tokens: Iterable[TokenItem]) -> TokenEnd | None:
    end = None
    for item in tokens:
        end = item if isinstance(item, TokenEnd) else None
        members = attrs.asdict(item, recurse=False)
        if "outcome" in members:
            members["outcome"] = members["outcome"].value
        click.echo(json.dumps({"item": _KINDS[type(item)], **members}))
    return end


class _Printer:
    """Writes to both outputs as to one terminal: what begins anew begins in a new line."""

    def __init__(self) -> None:
        self._open: bool | None = None
        """The output whose line has no end yet: standard error or not."""

    def show_chunk(self, chunk: TokenChunk) -> None:
        if chunk.missing:
            self.tell(f"{chunk.missing} entries are missing here; the job's result has all of it")
        if chunk.thinking:
            self._write(chunk.thinking, err=True)
        if chunk.content:
            self._write(chunk.content, err=False)
        for call in chunk.tool_calls:
            self.tell(f"tool call: {json.dumps(call)}")

    def tell(self, line: str) -> None:
        self.break_line()
        click.echo(line, err=True)

    def break_line(self) -> None:
        if self._open is not None:
            click.echo(err=self._open)
        self._open = None

    def _write(self, text: str, *, err: bool) -> None:
        if self._open is not err:
            self.break_line()
        self._open = err
        # Dim on a terminal alone; click takes the style away elsewhere.
        click.echo(click.style(text, dim=True) if err else text, nl=False, err=err)

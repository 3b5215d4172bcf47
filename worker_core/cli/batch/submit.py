"""`worker-core batch submit`: a file of requests becomes a batch, or is refused with every fault."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, BinaryIO

import attrs
import click

from worker_core.cli.batch.options import found, queue_option
from worker_core.cli.batch.progress import progress_bar
from worker_core.cli.batch.waiting import wait_for_end
from worker_core.cli.job_client import job_client
from worker_core.cli.options import EXIT_REFUSED, Duration, fail, timeout_option
from worker_core.cli.redis_options import redis_options
from worker_core.client import BatchStatus
from worker_core.durations import format_duration
from worker_core.openai_batch import (
    MAX_BYTES,
    BadInputFile,
    Submitted,
    batch_object,
    inspect,
    items_of,
    refused_object,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import NoReturn

    from worker_core.client import JobRef, SyncClient
    from worker_core.openai_batch import Contents

__all__ = ["submit_file"]

_HOUR = timedelta(hours=1)
_PIECE_BYTES = 1024 * 1024
_MOST_METADATA = 16
_LONGEST_KEY = 64
_LONGEST_VALUE = 512


def _metadata(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Read KEY=VALUE, as many and as long as OpenAI allows."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"takes KEY=VALUE, found {text[:100]!r}")
        if len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE:
            raise click.BadParameter(
                f"a key has at most {_LONGEST_KEY} characters, a value {_LONGEST_VALUE}"
            )
        pairs[key] = value
    if len(pairs) > _MOST_METADATA:
        raise click.BadParameter(f"at most {_MOST_METADATA} may be given")
    return pairs


@click.command("submit")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--completion-window",
    "window",
    type=Duration(positive=True),
    metavar="DURATION",
    default="24h",
    show_default=True,
    help="The batch ends after so long, with what is done by then.",
)
@click.option(
    "--metadata",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_metadata,
    help="Kept with the batch.",
)
@queue_option("Where to.")
@click.option("--wait", is_flag=True, help="Wait for the end; exits with 1 unless it completes.")
@timeout_option("How long to wait; for ever by default.", positive=True)
@click.option("--json", "as_json", is_flag=True, help="Print OpenAI's batch object.")
@redis_options
def submit_file(
    *,
    file: BinaryIO,
    window: timedelta,
    metadata: dict[str, str],
    queue: str,
    wait: bool,
    timeout: timedelta | None,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Submit the requests of FILE as one batch and print its id; - reads standard input.

    A line holds a request as OpenAI's Batch API takes it. All lines are looked at first: where one
    is at fault, every fault is told, nothing is submitted, and the exit code is 2.
    """
    submitted = Submitted(
        input_file=file.name, completion_window=_hours(window), metadata=dict(metadata) or None
    )
    try:
        with _readable_twice(file) as requests:
            contents = _inspect(requests)
            with job_client(config, prefix, redis_url) as client:
                ref = _send(client, requests, contents, submitted, window, queue)
                _report(client, ref, wait=wait, timeout=timeout, as_json=as_json)
    except BadInputFile as error:
        _refuse(error, submitted, as_json=as_json)


def _inspect(requests: BinaryIO) -> Contents:
    size = requests.seek(0, 2)
    with progress_bar("checking", size) as tell:
        return inspect(requests, on_read=tell)


def _send(
    client: SyncClient,
    requests: BinaryIO,
    contents: Contents,
    submitted: Submitted,
    window: timedelta,
    queue: str,
) -> JobRef:
    whole = attrs.evolve(submitted, endpoint=contents.endpoint.value, model=contents.model)
    with progress_bar("submitting", contents.requests) as tell:
        return client.submit_batch(
            items_of(requests, contents),
            queue=queue,
            timeout=window,
            metadata=submitted.metadata,
            meta=whole.meta(),
            on_stored=tell,
        )


def _report(
    client: SyncClient, ref: JobRef, *, wait: bool, timeout: timedelta | None, as_json: bool
) -> None:
    if not as_json:
        # At once: who is tired of waiting needs it.
        click.echo(ref.id)
    elif wait:
        click.echo(ref.id, err=True)
    view = wait_for_end(client, ref, timeout) if wait else found(client, ref)
    if as_json:
        click.echo(json.dumps(batch_object(view), indent=2))
    if wait and view.status is not BatchStatus.COMPLETED:
        fail(f"{ref.id} ended as {view.status.value}: {view.error or 'no reason was given'}")


@contextmanager
def _readable_twice(file: BinaryIO) -> Iterator[BinaryIO]:
    """Yield the file, or a copy of what can be read only once."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        # A little more than may be, so that it is refused for that.
        while copy.tell() <= MAX_BYTES and (piece := file.read(_PIECE_BYTES)):
            copy.write(piece)
        yield copy


def _hours(window: timedelta) -> str:
    """Write a completion window as OpenAI does: 24h, not 1d."""
    hours, rest = divmod(window, _HOUR)
    return format_duration(window) if rest else f"{hours}h"


def _refuse(error: BadInputFile, submitted: Submitted, *, as_json: bool) -> NoReturn:
    for line in error.lines():
        click.echo(f"error: {submitted.input_file}: {line}", err=True)
    click.echo("nothing was submitted", err=True)
    if as_json:
        click.echo(json.dumps(refused_object(submitted, error.faults), indent=2))
    sys.exit(EXIT_REFUSED)

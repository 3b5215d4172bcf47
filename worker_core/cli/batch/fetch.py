"""`worker-core batch fetch`: the output and the error file of a batch."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from worker_core.cli.batch.options import queue_option
from worker_core.cli.batch.output_file import OutputFile
from worker_core.cli.batch.progress import progress_bar
from worker_core.cli.job_client import job_client
from worker_core.cli.options import fail
from worker_core.cli.redis_options import redis_options
from worker_core.client import JobRef
from worker_core.openai_batch import ENDED, LineWriter, Target, errors_name, output_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from worker_core.client import BatchView, SyncClient

__all__ = ["fetch_batch"]


@click.command("fetch")
@click.argument("batch_id", metavar="ID")
@click.option("--output", metavar="FILE", help="For the answers; ID_output.jsonl by default.")
@click.option("--errors", metavar="FILE", help="For the failures; ID_error.jsonl by default.")
@click.option("--partial", is_flag=True, help="Fetch what there is of a batch that has not ended.")
@queue_option("Where it is.")
@redis_options
def fetch_batch(
    *,
    batch_id: str,
    output: str | None,
    errors: str | None,
    partial: bool,
    queue: str,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Write what the requests of a batch were answered, and why others failed.

    A line for each, in the form of OpenAI's files and in the order of the requests; - is standard
    output. A file appears when it is complete, and only where there is something to write into it
    or its name was given.
    """
    if output == errors not in (None, "-"):
        raise click.UsageError("--output and --errors must name two files")
    ref = JobRef(batch_id, queue)
    with job_client(config, prefix, redis_url) as client, ExitStack() as stack:
        view = client.batch(ref)
        if view is not None and view.status not in ENDED and not partial:
            done = view.completed + view.failed
            fail(
                f"{ref.id} is {view.status.value}: {done} of {view.total} requests are done; "
                f"--partial fetches those"
            )
        try:
            files = {
                target: stack.enter_context(OutputFile(name or by_default, wanted=bool(name)))
                for target, name, by_default in (
                    (Target.OUTPUT, output, output_name(batch_id)),
                    (Target.ERRORS, errors, errors_name(batch_id)),
                )
            }
            _write(client, ref, view, files)
            stack.close()
        except BrokenPipeError:
            raise  # whoever reads has had enough; click ends the command for it
        except OSError as error:
            fail(f"cannot be written: {error}")
    answered, failed = (files[target].lines for target in (Target.OUTPUT, Target.ERRORS))
    click.echo(f"{ref.id}: {answered} answered, {failed} failed", err=True)


def _write(
    client: SyncClient,
    ref: JobRef,
    view: BatchView | None,
    files: Mapping[Target, OutputFile],
) -> None:
    writer = LineWriter(
        batch_id=ref.id,
        status=None if view is None else view.status,
        reason=None if view is None else view.error,
        created=int(time.time()),
    )
    with progress_bar("fetching", 0 if view is None else view.total) as tell:
        for item in client.batch_items(ref):
            line = writer.line(item)
            if line is not None:
                files[line.target].write(line.text)
            tell(item.index + 1)

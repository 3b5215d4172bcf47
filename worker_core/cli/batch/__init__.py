"""`worker-core batch`: batches in OpenAI's form; needs no configuration and imports no plugin."""

from __future__ import annotations

import click

from worker_core.cli.batch.cancel import cancel_batch
from worker_core.cli.batch.fetch import fetch_batch
from worker_core.cli.batch.status import show_status
from worker_core.cli.batch.submit import submit_file

__all__ = ["command"]


@click.group("batch")
def command() -> None:
    """Submit files of requests in the form of OpenAI's Batch API, and fetch their answers."""


command.add_command(submit_file)
command.add_command(show_status)
command.add_command(cancel_batch)
command.add_command(fetch_batch)

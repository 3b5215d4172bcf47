"""`worker-core batch cancel`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from worker_core.cli.batch.options import found, queue_option
from worker_core.cli.job_client import job_client
from worker_core.cli.options import fail, timeout_option
from worker_core.cli.redis_options import redis_options
from worker_core.client import CancelOutcome, JobRef
from worker_core.openai_batch import batch_object

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

__all__ = ["cancel_batch"]


@click.command("cancel")
@click.argument("batch_id", metavar="ID")
@queue_option("Where it is.")
@click.option("--wait", is_flag=True, help="Wait until it has ended.")
@timeout_option("How long.", default="30s")
@click.option("--json", "as_json", is_flag=True, help="Print OpenAI's batch object.")
@redis_options
def cancel_batch(
    *,
    batch_id: str,
    queue: str,
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Cancel a batch: what runs of it is cancelled, what is done is kept and can be fetched.

    One that has ended is left as it is. Exits with 1 where there is none.
    """
    ref = JobRef(batch_id, queue)
    with job_client(config, prefix, redis_url) as client:
        outcome = client.cancel(ref, wait=timeout if wait else None)
        if outcome is CancelOutcome.UNKNOWN:
            fail(f"{ref.id} on {ref.queue} does not exist")
        view = found(client, ref)
    if as_json:
        click.echo(json.dumps(batch_object(view), indent=2))
        return
    kept = f"{view.completed + view.failed} of {view.total} requests are done and kept"
    match outcome:
        case CancelOutcome.CANCELLED:
            click.echo(f"{ref.id} is cancelled: {kept}")
        case CancelOutcome.REQUESTED:
            click.echo(f"{ref.id} is being cancelled: its worker has been told")
        case CancelOutcome.FINISHED:
            click.echo(f"{ref.id} had ended already, and is left as it is: {kept}")

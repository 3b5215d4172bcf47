"""`worker-core jobs cancel`: end jobs, whatever their state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from worker_core.cli.job_client import job_client
from worker_core.cli.options import fail, timeout_option
from worker_core.cli.redis_options import redis_options
from worker_core.client import CancelOutcome, JobRef

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

__all__ = ["cancel"]


@click.command("cancel")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--queue", default="llm-chat", show_default=True, help="Where they are.")
@click.option("--wait", is_flag=True, help="Wait until those that run have ended.")
@timeout_option("How long for each.", default="30s")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a line for each job.")
@redis_options
def cancel(
    *,
    job_ids: tuple[str, ...],
    queue: str,
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Cancel jobs: they fail with the reason "cancelled", also while they run.

    Those that have ended are left as they are. Exits with 1 where there is no such job.
    """
    unknown = []
    with job_client(config, prefix, redis_url) as client:
        for ref in (JobRef(job_id, queue) for job_id in job_ids):
            outcome = client.cancel(ref, wait=timeout if wait else None)
            if as_json:
                line = {"id": ref.id, "queue": ref.queue, "outcome": outcome.value}
                click.echo(json.dumps(line))
            elif outcome is not CancelOutcome.UNKNOWN:
                click.echo(f"{ref} {_WORDS[outcome]}")
            if outcome is CancelOutcome.UNKNOWN:
                unknown.append(ref)
    if unknown:
        fail("\n".join(f"{ref} does not exist" for ref in unknown))


_WORDS = {
    CancelOutcome.CANCELLED: "is cancelled",
    CancelOutcome.REQUESTED: "is being cancelled: its worker has been told",
    CancelOutcome.FINISHED: "had ended already, and is left as it is",
}

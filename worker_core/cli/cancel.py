"""`worker-core jobs cancel`: end jobs, whatever their state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from worker_core._bullmq.cancelling import CANCELLED
from worker_core.cli.job_client import job_client
from worker_core.cli.options import fail, timeout_option
from worker_core.cli.redis_options import redis_options
from worker_core.client import (
    CancelOutcome,
    JobFailed,
    JobGone,
    JobRef,
    ResultExpired,
    ResultTimeout,
)

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from worker_core.client import SyncClient

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
    troubles = []
    told = []
    with job_client(config, prefix, redis_url) as client:
        # All of them before any is waited for: one that takes its time must not hold up the others.
        for ref in (JobRef(job_id, queue) for job_id in job_ids):
            outcome = client.cancel(ref)
            if wait and outcome is CancelOutcome.REQUESTED:
                told.append(ref)
                continue
            _show(ref, outcome, as_json=as_json)
            if outcome is CancelOutcome.UNKNOWN:
                troubles.append(f"{ref} does not exist")
        for ref in told:
            try:
                _show(ref, _end_of(client, ref, timeout), as_json=as_json)
            except (JobGone, ResultTimeout) as error:
                troubles.append(str(error))
    if troubles:
        fail("\n".join(troubles))


def _end_of(client: SyncClient, ref: JobRef, timeout: timedelta) -> CancelOutcome:
    """Wait for the end of a job that was to be cancelled, and say what became of that."""
    try:
        client.result(ref, timeout=timeout)
    except JobFailed as error:
        was_cancelled = error.reason == CANCELLED.decode()
        return CancelOutcome.CANCELLED if was_cancelled else CancelOutcome.FINISHED
    except ResultExpired:
        pass
    return CancelOutcome.FINISHED


def _show(ref: JobRef, outcome: CancelOutcome, *, as_json: bool) -> None:
    if as_json:
        line = {"id": ref.id, "queue": ref.queue, "outcome": outcome.value}
        click.echo(json.dumps(line))
    elif outcome is not CancelOutcome.UNKNOWN:
        click.echo(f"{ref} {_WORDS[outcome]}")


_WORDS = {
    CancelOutcome.CANCELLED: "is cancelled",
    CancelOutcome.REQUESTED: "is being cancelled: its worker has been told",
    CancelOutcome.FINISHED: "had ended already, and is left as it is",
}

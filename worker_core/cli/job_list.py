"""`worker-core jobs list`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from worker_core.cli.job_client import job_client
from worker_core.cli.job_views import plain_view
from worker_core.cli.options import print_table
from worker_core.cli.redis_options import redis_options
from worker_core.client import JobState
from worker_core.client.listing import LISTED_STATES

if TYPE_CHECKING:
    from pathlib import Path

    from worker_core.client import JobView

__all__ = ["list_jobs"]

_REASON_CHARS = 100


@click.command("list")
@click.option(
    "--state",
    type=click.Choice([state.value for state in LISTED_STATES]),
    default=JobState.FAILED.value,
    show_default=True,
    help="Which.",
)
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many at most."
)
@click.option("--queue", default="llm-chat", show_default=True, help="Where they are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all there is, a line for each.")
@redis_options
def list_jobs(
    *,
    state: str,
    limit: int,
    queue: str,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Print jobs in one state: ended ones newest first, others in the order of their turn."""
    with job_client(config, prefix, redis_url) as client:
        views = client.list_jobs(queue, state=JobState(state), limit=limit)
    if as_json:
        for view in views:
            click.echo(json.dumps(plain_view(view)))
    elif views:
        print_table(("job", "name", "attempts", "since", "worker", "reason"), map(_row, views))
    else:
        click.echo(f"no {state} jobs on {queue}", err=True)


def _row(view: JobView) -> tuple[str, ...]:
    since = view.finished_at or view.processed_at or view.created_at
    reason = " ".join((view.failed_reason or "").split())
    cut = len(reason) > _REASON_CHARS
    return (
        view.ref.id,
        view.name,
        f"{view.attempts_made} of {view.max_attempts}",
        "" if since is None else since.isoformat(sep=" ", timespec="seconds"),
        view.worker or "",
        f"{reason[:_REASON_CHARS]}..." if cut else reason,
    )

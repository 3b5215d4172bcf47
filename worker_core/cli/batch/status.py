"""`worker-core batch status`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from worker_core.cli.batch.options import found, queue_option
from worker_core.cli.job_client import job_client
from worker_core.cli.redis_options import redis_options
from worker_core.client import JobRef
from worker_core.openai_batch import batch_object, submitted_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker_core.client import BatchView

__all__ = ["show_status"]


@click.command("status")
@click.argument("batch_id", metavar="ID")
@queue_option("Where it is.")
@click.option("--json", "as_json", is_flag=True, help="Print OpenAI's batch object.")
@redis_options
def show_status(
    *,
    batch_id: str,
    queue: str,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Print where a batch stands."""
    with job_client(config, prefix, redis_url) as client:
        view = found(client, JobRef(batch_id, queue))
    if as_json:
        click.echo(json.dumps(batch_object(view), indent=2))
        return
    for name, value in _lines(view):
        click.echo(f"{name:<10} {value}")


def _lines(view: BatchView) -> Iterator[tuple[str, str]]:
    """Yield what people want to know first; what is not known is left out."""
    submitted = submitted_of(view)
    yield "batch", f"{view.ref.id} on {view.ref.queue}"
    yield "status", view.status.value
    yield "requests", f"{view.completed} completed, {view.failed} failed, {view.total} in all"
    usage = view.usage
    yield "tokens", f"{usage.prompt_tokens} read, {usage.completion_tokens} written"
    if view.error is not None:
        yield "reason", view.error
    for name, text in (
        ("file", submitted.input_file),
        ("endpoint", submitted.endpoint),
        ("model", submitted.model),
        ("worker", view.job.worker),
    ):
        if text:
            yield name, text
    if submitted.metadata:
        yield "metadata", json.dumps(submitted.metadata)
    for name, moment in (
        ("created", view.created_at),
        ("started", view.started_at),
        ("ended", view.ended_at),
        ("expires", view.expires_at),
    ):
        if moment is not None:
            yield name, moment.isoformat(timespec="seconds")

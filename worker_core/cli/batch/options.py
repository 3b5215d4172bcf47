"""What the commands about batches share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker_core.cli.options import fail
from worker_core.client import DEFAULT_QUEUES, JobRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core.client import BatchView, SyncClient

__all__ = ["found", "queue_option"]

F = TypeVar("F", bound="Callable[..., Any]")


def queue_option(text: str) -> Callable[[F], F]:
    """Return the option `--queue`."""
    return click.option("--queue", default=DEFAULT_QUEUES["batch"], show_default=True, help=text)


def found(client: SyncClient, ref: JobRef) -> BatchView:
    """Return a batch, or end the command where there is none."""
    view = client.batch(ref)
    if view is None:
        fail(f"{ref.id} on {ref.queue} does not exist")
    return view

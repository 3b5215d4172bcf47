"""Waiting for the end of a batch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from worker_core.cli.batch.options import found
from worker_core.cli.batch.progress import progress_bar
from worker_core.cli.options import fail
from worker_core.durations import format_duration
from worker_core.openai_batch import ENDED

if TYPE_CHECKING:
    from datetime import timedelta

    from worker_core.client import BatchView, JobRef, SyncClient

__all__ = ["wait_for_end"]

_POLL_SECONDS = 0.5


def wait_for_end(client: SyncClient, ref: JobRef, timeout: timedelta | None) -> BatchView:
    """Return the batch as it ended; ends the command where it does not end in time."""
    deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
    view = found(client, ref)
    with progress_bar("running", view.total) as tell:
        while view.status not in ENDED:
            if deadline is not None and time.monotonic() >= deadline:
                assert timeout is not None
                fail(f"{ref.id} did not end within {format_duration(timeout)}; it goes on")
            time.sleep(_POLL_SECONDS)
            view = found(client, ref)
            tell(view.completed + view.failed)
    return view

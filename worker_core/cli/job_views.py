"""Jobs as the commands print them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_core.client import JobView

__all__ = ["lines_of", "plain_view"]


def lines_of(view: JobView) -> Iterator[tuple[str, str]]:
    """Yield what people want to know first; what is not known is left out."""
    yield "job", f"{view.ref.id} ({view.name}) on {view.ref.queue}"
    yield "state", view.state.value
    yield "attempts", f"{view.attempts_made} of {view.max_attempts}"
    if view.progress is not None:
        yield "progress", json.dumps(view.progress)
    if view.failed_reason is not None:
        yield "reason", view.failed_reason
    if view.worker is not None:
        yield "worker", view.worker
    for name, moment in (
        ("created", view.created_at),
        ("started", view.processed_at),
        ("finished", view.finished_at),
    ):
        if moment is not None:
            yield name, moment.isoformat(timespec="milliseconds")


def plain_view(view: JobView) -> dict[str, object]:
    """Return a view as JSON has it."""
    members = attrs.asdict(view, recurse=False)
    members |= {"ref": attrs.asdict(view.ref), "state": view.state.value}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in members.items()
    }

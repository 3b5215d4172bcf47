"""Telling plugins of each step of a job's life."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker_core.job import JobEvent

__all__ = ["notifier"]

_log = structlog.get_logger("worker_core.observers")


def notifier(
    observers: Sequence[tuple[str, Callable[[JobEvent], None]]],
) -> Callable[[JobEvent], None] | None:
    """Return what tells all observers, in order; `None` where there are none.

    `observers` are (plugin name, hook). One that raises is logged by its plugin's name and asked
    no more, for an observer must never cost a job.
    """
    if not observers:
        return None
    asked = dict(observers)

    def notify(event: JobEvent) -> None:
        for plugin, observe in tuple(asked.items()):
            try:
                observe(event=event)  # type: ignore[call-arg]  # pluggy passes by name
            except Exception:  # noqa: BLE001  # a plugin's fault; the job goes on
                del asked[plugin]
                _log.exception("an observer raised and is asked no more", plugin=plugin)

    return notify

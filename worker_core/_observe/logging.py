"""Logs: for people on a terminal, JSON for machines; always on standard error."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from worker_core.config import LogSettings

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["configure_logging"]

_CONTENT = frozenset({"prompt", "answer", "content", "messages"})
"""Keys under which prompts and answers might be logged."""


def configure_logging(settings: LogSettings, *, worker_id: str | None = None) -> None:
    """Set up structlog for this process, and let the standard library's logs through it."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    for_people = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not settings.content:
        shared.append(_without_content)
    rendering: list[Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # With rich there, the default shows the locals of every frame: prompts, passwords.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
        if for_people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    if worker_id is not None and not for_people:
        structlog.contextvars.bind_contextvars(worker_id=worker_id)
    _route_standard_library(shared, rendering, level)


def _route_standard_library(
    shared: list[Processor], rendering: list[Processor], level: int
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # httpx logs each request at info: that is one line a job.
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("worker_core").setLevel(level)


def _without_content(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key in _CONTENT & event.keys():
        event[key] = "(not logged: set log.content)"
    return event

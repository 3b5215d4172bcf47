"""`JobContext` as a running job is handed it."""

from __future__ import annotations

import math
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from worker_core._runtime.progress import ProgressReporter
    from worker_core._runtime.scope import JobScope
    from worker_core.job import EngineCalls, Job
    from worker_core.redis import Redis

__all__ = ["Context"]


class Context:
    """What `worker_core.job.JobContext` promises; one for each run of a job."""

    def __init__(
        self,
        *,
        job: Job,
        engine: EngineCalls,
        redis: Redis,
        scope: JobScope,
        reporter: ProgressReporter,
        log_line: Callable[[str], None],
    ) -> None:
        self.job = job
        self.engine = engine
        self.redis = redis
        self.warnings: list[str] = []
        self._scope = scope
        self._reporter = reporter
        self._log_line = log_line

    @cached_property
    def log(self) -> FilteringBoundLogger:
        """A logger with job, queue and attempt bound; made when first used."""
        job = self.job
        logger: FilteringBoundLogger = structlog.get_logger("worker_core.job").bind(
            job_id=job.id, queue=job.queue, job_type=job.type, attempt=job.attempt
        )
        return logger

    @property
    def time_left(self) -> timedelta | None:
        """How long the job may still run."""
        left = self._scope.seconds_left
        return None if left is math.inf else timedelta(seconds=left)

    def progress(self, value: object) -> None:
        """Publish how far the job is."""
        self._reporter.report(value)

    def note(self, line: str) -> None:
        """Add a line to the job's own log."""
        self._log_line(line)

    def warn(self, text: str) -> None:
        """Add a warning to the result envelope."""
        self.warnings.append(text)

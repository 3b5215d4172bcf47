"""The plugin class."""

from __future__ import annotations

from typing import Any

from worker_core import JobType, hookimpl
from worker_core_batch.job_type import BatchJobType
from worker_core_batch.settings import BatchSettings

__all__ = ["BatchPlugin"]


class BatchPlugin:
    """Provides the job type `batch`."""

    Settings = BatchSettings

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings

    @hookimpl
    def worker_core_job_types(self) -> list[JobType[Any]]:
        """Return the job type."""
        return [BatchJobType(self._settings)]

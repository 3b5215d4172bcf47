"""The plugin class."""

from __future__ import annotations

from typing import Any

from worker_core import JobType, hookimpl
from worker_core_embeddings.job_type import EmbeddingsJobType
from worker_core_embeddings.settings import EmbeddingsSettings

__all__ = ["EmbeddingsPlugin"]


class EmbeddingsPlugin:
    """Provides the job type `embeddings`."""

    Settings = EmbeddingsSettings

    def __init__(self, settings: EmbeddingsSettings) -> None:
        self._settings = settings

    @hookimpl
    def worker_core_job_types(self) -> list[JobType[Any]]:
        """Return the job type."""
        return [EmbeddingsJobType(self._settings)]

"""The plugin class."""

from __future__ import annotations

from typing import Any

from worker_core import JobType, hookimpl
from worker_core_chat.job_type import ChatJobType
from worker_core_chat.settings import ChatSettings

__all__ = ["ChatPlugin"]


class ChatPlugin:
    """Provides the job type `chat`."""

    Settings = ChatSettings

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings

    @hookimpl
    def worker_core_job_types(self) -> list[JobType[Any]]:
        """Return the job type."""
        return [ChatJobType(self._settings)]

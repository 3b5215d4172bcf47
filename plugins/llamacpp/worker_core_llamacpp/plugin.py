"""The plugin class: what the worker builds from the entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from worker_core import hookimpl
from worker_core_llamacpp.engine import LlamaCppEngine
from worker_core_llamacpp.settings import LlamaCppSettings

if TYPE_CHECKING:
    from worker_core import Engine

__all__ = ["LlamaCppPlugin"]


class LlamaCppPlugin:
    """Provides the engine `llamacpp`."""

    Settings: ClassVar[type[LlamaCppSettings]] = LlamaCppSettings

    def __init__(self, settings: LlamaCppSettings) -> None:
        self._settings = settings

    @hookimpl
    def worker_core_engines(self) -> list[Engine]:
        """Return the one engine."""
        return [LlamaCppEngine(self._settings)]

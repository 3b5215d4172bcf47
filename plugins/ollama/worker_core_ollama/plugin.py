"""The plugin class: what the worker builds from the entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from worker_core import hookimpl
from worker_core_ollama.engine import OllamaEngine
from worker_core_ollama.settings import OllamaSettings

if TYPE_CHECKING:
    from worker_core import Engine

__all__ = ["OllamaPlugin"]


class OllamaPlugin:
    """Provides the engine `ollama`."""

    Settings: ClassVar[type[OllamaSettings]] = OllamaSettings

    def __init__(self, settings: OllamaSettings) -> None:
        self._settings = settings

    @hookimpl
    def worker_core_engines(self) -> list[Engine]:
        """Return the one engine."""
        return [OllamaEngine(self._settings)]

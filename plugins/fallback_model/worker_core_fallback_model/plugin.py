"""The plugin class."""

from __future__ import annotations

from worker_core import Fallback, hookimpl
from worker_core_fallback_model.settings import FallbackModelSettings
from worker_core_fallback_model.strategy import ModelFallback

__all__ = ["FallbackModelPlugin"]


class FallbackModelPlugin:
    """Provides the fallback strategy `fallback_model`."""

    Settings = FallbackModelSettings

    def __init__(self, settings: FallbackModelSettings) -> None:
        self._settings = settings

    @hookimpl
    def worker_core_fallbacks(self) -> list[Fallback]:
        """Return the strategy, also where it is off: `[worker] fallbacks` may name it then too."""
        return [ModelFallback(self._settings)]

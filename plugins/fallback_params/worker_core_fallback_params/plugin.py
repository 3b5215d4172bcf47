"""The plugin class."""

from __future__ import annotations

from worker_core import Fallback, hookimpl
from worker_core_fallback_params.settings import FallbackParamsSettings
from worker_core_fallback_params.strategy import ParamsFallback

__all__ = ["FallbackParamsPlugin"]


class FallbackParamsPlugin:
    """Provides the fallback strategy `fallback_params`."""

    Settings = FallbackParamsSettings

    def __init__(self, settings: FallbackParamsSettings) -> None:
        self._settings = settings

    @hookimpl
    def worker_core_fallbacks(self) -> list[Fallback]:
        """Return the strategy."""
        return [ParamsFallback(self._settings)]

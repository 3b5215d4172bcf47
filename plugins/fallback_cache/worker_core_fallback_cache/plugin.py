"""The plugin class."""

from __future__ import annotations

from worker_core import Fallback, hookimpl
from worker_core_fallback_cache.settings import FallbackCacheSettings
from worker_core_fallback_cache.strategy import CacheFallback

__all__ = ["FallbackCachePlugin"]


class FallbackCachePlugin:
    """Provides the fallback strategy `fallback_cache`."""

    Settings = FallbackCacheSettings

    def __init__(self, settings: FallbackCacheSettings) -> None:
        self._settings = settings

    @hookimpl
    def worker_core_fallbacks(self) -> list[Fallback]:
        """Return the strategy."""
        return [CacheFallback(self._settings)]

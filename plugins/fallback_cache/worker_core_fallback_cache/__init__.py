"""A fallback to answers that were given before, kept in Redis."""

from worker_core_fallback_cache.plugin import FallbackCachePlugin
from worker_core_fallback_cache.settings import FallbackCacheSettings
from worker_core_fallback_cache.strategy import CacheFallback

__all__ = ["CacheFallback", "FallbackCachePlugin", "FallbackCacheSettings"]

"""Answers in Redis: `<prefix>:cache:<namespace>:<tenant>:<digest>`, and an index of their last use."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from worker_core.redis import Script

if TYPE_CHECKING:
    from worker_core.redis import Redis
    from worker_core_fallback_cache.settings import FallbackCacheSettings

__all__ = ["Store", "now_ms"]

_HERE = Path(__file__).parent
_GET = Script("fallback_cache get", (_HERE / "get.lua").read_bytes())
_PUT = Script("fallback_cache put", (_HERE / "put.lua").read_bytes())


@attrs.frozen
class Store:
    """The entries of a namespace. Every call raises `RedisError`."""

    _redis: Redis
    _settings: FallbackCacheSettings

    async def get(self, member: str) -> bytes | None:
        """Return an entry that is there."""
        value = await self._redis.script(_GET, self._keys(member), (member, now_ms()))
        return value if isinstance(value, bytes) else None

    async def put(self, member: str, value: bytes) -> None:
        """Keep an entry."""
        settings, now = self._settings, now_ms()
        ttl_ms = settings.ttl // timedelta(milliseconds=1)
        arguments = (member, value, now, ttl_ms, now - ttl_ms, settings.max_entries, self._base)
        await self._redis.script(_PUT, self._keys(member), arguments)

    @property
    def _base(self) -> str:
        return f"{self._redis.prefix}:cache:{self._settings.namespace}:"

    def _keys(self, member: str) -> tuple[str, str]:
        return self._base + member, f"{self._base}index"


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000

"""The strategy: the answer that the same request got before."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import anyio
import structlog

from worker_core import ChatAnswer, ChatCall, FailureClass, Fallback, FallbackAnswer
from worker_core.errors import RedisError
from worker_core_fallback_cache.canonical import digest_of, is_at_temperature_zero, tenant_part
from worker_core_fallback_cache.entry import Entry, is_worth_keeping, read_entry, write_entry
from worker_core_fallback_cache.store import Store, now_ms

if TYPE_CHECKING:
    from worker_core import AskedCall, EmbedAnswer, FailedCall
    from worker_core_fallback_cache.settings import FallbackCacheSettings

__all__ = ["CacheFallback"]

_log = structlog.get_logger("worker_core_fallback_cache")

_ASK_SECONDS = 0.2
"""How long a job waits for the cache: one that is down must not hold it up."""


class CacheFallback(Fallback):
    """Keeps the answers of chats, and gives them again; embeddings it leaves alone."""

    name: ClassVar[str] = "fallback_cache"

    def __init__(self, settings: FallbackCacheSettings) -> None:
        self._settings = settings
        # The same wrong request has no answer here either.
        self.handles = frozenset(FailureClass) - {FailureClass.BAD_INPUT, FailureClass.UNSUPPORTED}
        self._is_down = False

    async def before(self, asked: AskedCall) -> FallbackAnswer | None:
        """Answer a call that need not be made, where that is wished for."""
        return await self._find(asked) if self._settings.mode == "always" else None

    async def answer(self, failed: FailedCall) -> FallbackAnswer | None:
        """Answer a call that failed, where the same was answered before."""
        return await self._find(failed.asked)

    async def answered(self, asked: AskedCall, answer: ChatAnswer | EmbedAnswer) -> None:
        """Keep an answer."""
        member = self._member_of(asked)
        call = asked.call
        if member is None or not isinstance(call, ChatCall) or not isinstance(answer, ChatAnswer):
            return
        if not is_worth_keeping(call, answer):
            return
        value = write_entry(Entry(stored_ms=now_ms(), answer=answer))
        if value is None or len(value) > self._settings.max_entry_bytes:
            return
        with anyio.move_on_after(_ASK_SECONDS) as waiting:
            try:
                await Store(asked.redis, self._settings).put(member, value)
            except RedisError as error:
                self._note(str(error))
            else:
                self._note(None)
        if waiting.cancelled_caught:
            self._note("it does not answer")

    async def _find(self, asked: AskedCall) -> FallbackAnswer | None:
        member = self._member_of(asked)
        if member is None:
            return None
        value: bytes | None = None
        with anyio.move_on_after(_ASK_SECONDS) as waiting:
            try:
                value = await Store(asked.redis, self._settings).get(member)
            except RedisError as error:
                self._note(str(error))
            else:
                self._note(None)
        if waiting.cancelled_caught:
            self._note("it does not answer")
        entry = None if value is None else read_entry(value)
        if entry is None:
            return None
        # The clocks of two workers may differ: nothing is of tomorrow.
        age = max(0, now_ms() - entry.stored_ms) / 1000
        return FallbackAnswer(answer=entry.answer, detail={"age_seconds": age})

    def _member_of(self, asked: AskedCall) -> str | None:
        """Return what names the call among the entries; `None` where its answers are not kept."""
        call = asked.call
        if not isinstance(call, ChatCall):
            return None
        if self._settings.temperature == "zero" and not is_at_temperature_zero(call):
            return None
        [asker] = asked.askers
        return f"{tenant_part(asker.tenant)}:{digest_of(call, asker.tenant)}"

    def _note(self, trouble: str | None) -> None:
        """Say once that the cache is down, and once that it is back."""
        if self._is_down is (trouble is not None):
            return
        self._is_down = trouble is not None
        if trouble is None:
            _log.info("the cache is back")
        else:
            _log.warning("the cache cannot be asked; jobs go on without it", reason=trouble)

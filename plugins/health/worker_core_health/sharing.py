"""One question at a time, its answer shared by everybody who asks at about the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast

import anyio
import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from anyio.abc import TaskGroup

__all__ = ["NotAnswered", "Shared"]

T = TypeVar("T")

_log = structlog.get_logger("worker_core_health")


class NotAnswered(Exception):
    """There is no answer; the message says why."""


class Shared(Generic[T]):
    """Asks a question when somebody wants its answer and the last one is no longer fresh.

    However many probes come, the worker's parts are asked once each `keep` at the most.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        *,
        tasks: TaskGroup,
        within: timedelta,
        keep: timedelta,
    ) -> None:
        self._ask = ask
        self._tasks = tasks
        self._within = within.total_seconds()
        self._keep = keep.total_seconds()
        self._asking: _Asking[T] | None = None

    async def answer(self) -> T:
        """Return the answer, or raise `NotAnswered` when its time is over."""
        asking = self._asking
        if asking is None or asking.stale_at <= anyio.current_time():
            asking = self._asking = _Asking()
            # A task of its own: who asked first may hang up before the others have their answer.
            self._tasks.start_soon(self._run, asking)
        with anyio.move_on_after(self._within):
            await asking.ended.wait()
        if asking.fault is not None:
            raise NotAnswered(asking.fault)
        return cast("T", asking.value)

    async def _run(self, asking: _Asking[T]) -> None:
        try:
            with anyio.move_on_after(self._within):
                asking.value = await self._ask()
                asking.fault = None
        except Exception as error:  # noqa: BLE001  # checks are plugins': a probe is answered all the same
            _log.error("a question about the worker's health failed", exc_info=error)
            asking.fault = f"asking failed: {error!r}"
        finally:
            asking.stale_at = anyio.current_time() + self._keep
            asking.ended.set()


class _Asking(Generic[T]):
    """One question on its way."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.stale_at = float("inf")
        self.value: T | None = None
        self.fault: str | None = "no answer in time"

"""One run of a batch: from where it was left to its end, or as far as it gets."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import anyio

from worker_core import (
    CircuitOpen,
    DelayJob,
    EngineError,
    Fault,
    GiveBack,
    InvalidRequest,
    Unrecoverable,
)
from worker_core.batches import BatchKeys, BatchPhase
from worker_core.durations import format_duration
from worker_core_batch.answer import sum_up
from worker_core_batch.dispatch import Limits, dispatch
from worker_core_batch.item_runs import ItemRuns
from worker_core_batch.sources import InlineRequests, StoredList
from worker_core_batch.store import BatchStore, now_ms
from worker_core_batch.validation import validate

if TYPE_CHECKING:
    from collections.abc import Collection

    from worker_core import JobContext
    from worker_core.batches import BatchState
    from worker_core_batch.failures import Interruption
    from worker_core_batch.request import BatchRequest
    from worker_core_batch.settings import BatchSettings
    from worker_core_batch.sources import Requests
    from worker_core_batch.store import ItemRecord

__all__ = ["BatchRun"]

_SHORTEST_DELAY = timedelta(seconds=1)
"""While the first call goes through a circuit, the others are told to come back at once."""


class BatchRun:
    """Runs what is left of a batch."""

    def __init__(self, request: BatchRequest, context: JobContext, settings: BatchSettings) -> None:
        self._request = request
        self._context = context
        self._settings = settings
        job, redis = context.job, context.redis
        self._store = BatchStore(redis, BatchKeys(redis.prefix, job.queue, job.id), settings.ttl)
        self._items = ItemRuns(
            context, self._store, share=settings.share, on_recorded=self._count_in
        )
        self._ended = 0
        """Items that have an outcome."""
        self._failed = 0
        """Those of them that failed."""

    async def carry_out(self) -> dict[str, object]:
        """Return the answer of a batch whose items all have an outcome; else raise why not."""
        self._check_form()
        limit = self._request.time_limit
        with anyio.move_on_after(self._seconds_left(limit)) as window:
            state = await self._store.begin(
                created_ms=self._context.job.created_ms, total=self._request.total, limit=limit
            )
            await self._run_items(state)
        if window.cancelled_caught:
            assert limit is not None
            await self._expire(limit)
        await self._store.enter(BatchPhase.FINALIZING)
        answer = await sum_up(self._store, self._request)
        await self._store.end(BatchPhase.COMPLETED)
        return answer

    def _check_form(self) -> None:
        request, most = self._request, self._settings.max_requests
        if (request.requests is None) == (request.stored is None):
            raise InvalidRequest([Fault("requests", "these or 'stored' must be there, not both")])
        if not request.total:
            raise InvalidRequest([Fault("requests", "must not be empty")])
        if request.total > most:
            over = f"{request.total} are over the limit of {most} (plugins.batch.max_requests)"
            raise InvalidRequest([Fault("requests", over)])

    def _seconds_left(self, limit: timedelta | None) -> float | None:
        """Return what is left of the time that began when the job was added."""
        if limit is None:
            return None
        passed = timedelta(milliseconds=now_ms() - self._context.job.created_ms)
        return max(0.0, (limit - passed).total_seconds())

    async def _run_items(self, state: BatchState) -> None:
        """Run the items without an outcome; raises where some are left without one."""
        if state.phase in {BatchPhase.VALIDATING, BatchPhase.INVALID}:
            await self._validate()
        done = await self._store.done()
        self._ended, self._failed = len(done), state.failed
        if self._is_complete:
            return
        await self._check_stored()
        await self._store.enter(BatchPhase.IN_PROGRESS)
        self._tell()
        await dispatch(
            self._requests(done), self._items.run, limits=self._limits(), may_begin=self._may_begin
        )
        if not self._is_complete:
            await self._break_off()

    async def _validate(self) -> None:
        context = self._context
        try:
            await self._check_stored()
            looked_at_all = await validate(
                self._requests(), context.types, may_go_on=lambda: not context.is_draining
            )
        except InvalidRequest:
            await self._store.end(BatchPhase.INVALID)  # noqa: ASYNC120  # a cancel outranks a fault
            raise
        if not looked_at_all:
            raise GiveBack

    async def _check_stored(self) -> None:
        if self._request.stored is None:
            return
        stored, total = await self._store.stored(), self._request.total
        if stored != total:
            raise InvalidRequest([Fault("stored", f"{stored} of {total} requests are stored")])

    def _requests(self, done: Collection[int] = frozenset()) -> Requests:
        inline = self._request.inline
        if inline is not None:
            return InlineRequests(inline, done)
        return StoredList(self._store, self._request.total, done)

    def _limits(self) -> Limits:
        asked, most = self._request.concurrency, self._settings.max_concurrency
        if asked is not None:
            return Limits(together=min(asked, most), of_type=None)
        return Limits(together=most, of_type=self._slots)

    def _slots(self, job_type: str) -> int:
        types = self._context.types
        # Of a type that is not there one is let through, to find that out.
        return types.slots(job_type) if job_type in types.names else 1

    @property
    def _is_complete(self) -> bool:
        return self._ended >= self._request.total

    @property
    def _is_stopped(self) -> bool:
        """Whether an item has failed in a batch that stops then."""
        return self._request.stops and self._items.first_failed is not None

    def _may_begin(self) -> bool:
        held_up = self._is_stopped or self._items.interruption is not None
        return not held_up and not self._context.is_draining

    def _count_in(self, outcome: ItemRecord) -> None:
        self._ended += 1
        self._failed += outcome.is_failure
        self._tell()

    def _tell(self) -> None:
        self._context.progress(
            {"done": self._ended, "failed": self._failed, "total": self._request.total}
        )

    async def _break_off(self) -> NoReturn:
        """Raise what a run ends with that leaves items without an outcome."""
        failed, interruption = self._items.first_failed, self._items.interruption
        if self._is_stopped and failed is not None:
            await self._store.end(BatchPhase.STOPPED)
            raise Unrecoverable(
                f"item {failed.item.custom_id[:100]!r} failed: {failed.failure.message}; "
                f"{self._ended} of {self._request.total} are done and kept"
            )
        if interruption is not None:
            await self._put_off(interruption)
        raise GiveBack

    async def _put_off(self, interruption: Interruption) -> NoReturn:
        error, settings = interruption.error, self._settings
        if not interruption.may_pass:
            raise error
        waited = await self._store.put_off()
        if waited >= settings.patience.total_seconds():
            await self._store.give_up()
            if isinstance(error, CircuitOpen):
                # As it is, the worker would put the batch back once more.
                raise EngineError(error.failure, error.message) from error
            raise error
        delay = settings.retry_delay
        if isinstance(error, CircuitOpen):
            delay = max(error.retry_after, _SHORTEST_DELAY)
        told = format_duration(delay)
        self._context.log.warning("a batch is put off", reason=str(error), delay=told)
        self._context.note(
            f"put off for {told} with {self._ended} of {self._request.total} items done: {error}"
        )
        raise DelayJob(delay)

    async def _expire(self, limit: timedelta) -> NoReturn:
        ended = (await self._store.state()).ended
        await self._store.end(BatchPhase.EXPIRED)
        raise Unrecoverable(
            f"the batch did not end within {format_duration(limit)}: "
            f"{ended} of {self._request.total} items are done and kept"
        )

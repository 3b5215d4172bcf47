"""Running single items: each to its outcome, which is recorded at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from worker_core import InvalidRequest
from worker_core.batches import BatchItem, completed_outcome, failed_outcome
from worker_core.errors import RedisError
from worker_core_batch.failures import Interruption, OwnFailure, verdict_on
from worker_core_batch.store import ItemRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core import JobContext
    from worker_core_batch.sources import Entry
    from worker_core_batch.store import BatchStore

__all__ = ["ItemFailure", "ItemRuns"]

_UNREADABLE = BatchItem("", "", None)


@attrs.frozen
class ItemFailure:
    """An item, and why it failed."""

    item: BatchItem
    failure: OwnFailure


class ItemRuns:
    """Runs items, and keeps why no other may begin."""

    def __init__(
        self,
        context: JobContext,
        store: BatchStore,
        *,
        share: float,
        on_recorded: Callable[[ItemRecord], None],
    ) -> None:
        self._context = context
        self._store = store
        self._share = share
        self._on_recorded = on_recorded
        self.interruption: Interruption | None = None
        """What keeps the batch from going on; the first there was."""
        self.first_failed: ItemFailure | None = None

    async def run(self, entry: Entry) -> None:
        """Run one item and record its outcome, or keep what interrupts the batch."""
        try:
            outcome = await self._outcome(entry)
            if outcome is not None:
                await self._store.record(outcome)
                self._on_recorded(outcome)
        except Exception as error:  # noqa: BLE001  # Redis, or a fault of ours: for all items alike
            self._interrupt(Interruption(error, may_pass=isinstance(error, RedisError)))

    async def _outcome(self, entry: Entry) -> ItemRecord | None:
        """Return how the item ended; `None` where it was interrupted."""
        item = entry.item or _UNREADABLE
        if entry.item is not None and item.type not in self._context.types.names:
            # It was when the batch began, on another worker, which may come back for it.
            missing = f"this worker has no job type {item.type[:100]!r} any more"
            self._interrupt(Interruption(RuntimeError(missing), may_pass=True))
            return None
        try:
            if entry.item is None:
                raise InvalidRequest(entry.faults)
            result = await self._context.run(item.type, item.body, share=self._share)
        except Exception as error:  # noqa: BLE001  # whatever a job type raised: judged here
            match verdict_on(error):
                case OwnFailure() as failure:
                    if self.first_failed is None:
                        self.first_failed = ItemFailure(item, failure)
                    written = failed_outcome(item, failure.failure, failure.message)
                    return ItemRecord(index=entry.index, written=written, is_failure=True)
                case Interruption() as interruption:
                    self._interrupt(interruption)
                    return None
        return ItemRecord(
            index=entry.index,
            written=completed_outcome(item, result.envelope),
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
        )

    def _interrupt(self, interruption: Interruption) -> None:
        if self.interruption is None:
            self.interruption = interruption

"""Where a batch's requests come from, page by page: the job's data, or the list beside it."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import anyio
import attrs

from worker_core import InvalidRequest
from worker_core.batches import PageSize, read_item

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from worker_core import JSON, Fault
    from worker_core.batches import BatchItem
    from worker_core_batch.store import BatchStore

__all__ = ["Entry", "InlineRequests", "Requests", "StoredList"]

_PAGE_ITEMS = 50


@attrs.frozen(eq=False)
class Entry:
    """One request at its place: an item, or what is wrong with it."""

    index: int
    item: BatchItem | None
    faults: Sequence[Fault] = ()
    bytes: int = 0
    """What it holds of memory that would not be held without it."""

    @property
    def type(self) -> str:
        """The job type that the item is for."""
        return "" if self.item is None else self.item.type


class Requests(abc.ABC):
    """The requests of a batch in order, without those that are skipped; `next_page` until empty."""

    def __init__(self, total: int, skip: Collection[int] = frozenset()) -> None:
        self._total = total
        self._skip = skip
        self._at = 0

    async def next_page(self) -> list[Entry]:
        """Return the next requests, some at least; nothing at the end."""
        while self._at < self._total:
            if self._at in self._skip:
                self._at += 1
                continue
            begin = self._at
            found = await self._read(begin)
            self._at += len(found)
            if not found:
                self._at = self._total
            # So that other jobs come to their turn, whatever reading a page takes.
            await anyio.lowlevel.checkpoint()
            return [
                _entry(index, value)
                for index, value in enumerate(found, begin)
                if index not in self._skip
            ]
        return []

    @abc.abstractmethod
    async def _read(self, begin: int) -> Sequence[bytes | JSON]:
        """Return requests from an index on; nothing where there are none."""


class InlineRequests(Requests):
    """Those that stand in the job's data."""

    def __init__(self, requests: list[JSON], skip: Collection[int] = frozenset()) -> None:
        super().__init__(len(requests), skip)
        self._requests = requests

    async def _read(self, begin: int) -> Sequence[bytes | JSON]:
        return self._requests[begin : begin + _PAGE_ITEMS]


class StoredList(Requests):
    """Those that are stored beside the job: a page is held at a time."""

    def __init__(self, store: BatchStore, total: int, skip: Collection[int] = frozenset()) -> None:
        super().__init__(total, skip)
        self._store = store
        self._size = PageSize(_PAGE_ITEMS)

    async def _read(self, begin: int) -> Sequence[bytes | JSON]:
        count = min(self._size.count, self._total - begin)
        page = await self._store.requests(begin, count)
        self._size.learn(page)
        return page


def _entry(index: int, value: bytes | JSON) -> Entry:
    size = len(value) if isinstance(value, bytes) else 0
    try:
        return Entry(index, read_item(value), bytes=size)
    except InvalidRequest as error:
        return Entry(index, None, error.faults)

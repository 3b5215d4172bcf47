"""Looking at all requests of a batch before any of them runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from worker_core import Fault, InvalidRequest
from worker_core.batches import item_faults
from worker_core.strict_json import item_path, key_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker_core import InnerTypes
    from worker_core.batches import BatchItem
    from worker_core_batch.sources import Entry, Requests

__all__ = ["validate"]

_NAMED = 100
"""Faults that are named; the rest is counted, so that a reason stays one that can be read."""
_AT_ONCE = 10
"""Requests that are looked at before other jobs come to their turn."""


async def validate(requests: Requests, types: InnerTypes, *, may_go_on: Callable[[], bool]) -> bool:
    """Raise `InvalidRequest` with every fault, by item; `False` where it may not go on."""
    found = _Faults(types)
    while page := await requests.next_page():
        if not may_go_on():
            return False
        for begin in range(0, len(page), _AT_ONCE):
            for entry in page[begin : begin + _AT_ONCE]:
                found.look_at(entry)
            await anyio.lowlevel.checkpoint()
    found.raise_any()
    return True


class _Faults:
    """Collects what is wrong with the requests."""

    def __init__(self, types: InnerTypes) -> None:
        self._types = types
        self._names = frozenset(types.names)
        self._installed = ", ".join(types.names) or "none"
        self._places: dict[str, int] = {}
        self._named: list[Fault] = []
        self._count = 0

    def look_at(self, entry: Entry) -> None:
        path = item_path("requests", entry.index)
        faults = entry.faults if entry.item is None else self._of(entry.item, entry.index)
        for fault in faults:
            self._count += 1
            if len(self._named) < _NAMED:
                self._named.append(Fault(_join(path, fault.path), fault.message))

    def raise_any(self) -> None:
        if not self._count:
            return
        if self._count > len(self._named):
            self._named.append(Fault("", f"and {self._count - len(self._named)} more"))
        raise InvalidRequest(self._named)

    def _of(self, item: BatchItem, index: int) -> Iterator[Fault]:
        yield from item_faults(item, "")
        first = self._places.setdefault(item.custom_id, index)
        if first != index and item.custom_id:
            shown = item.custom_id[:100]
            yield Fault("custom_id", f"is that of requests[{first}] too: {shown!r}")
        if item.type not in self._names:
            if item.type:
                shown = item.type[:100]
                yield Fault(
                    "type",
                    f"no job type {shown!r} may run in a batch; there are: {self._installed}",
                )
            return
        try:
            self._types.check(item.type, item.body)
        except InvalidRequest as error:
            for fault in error.faults:
                yield Fault(_join("body", fault.path), fault.message)


def _join(path: str, rest: str) -> str:
    # `body` and `[0]` make `body[0]`.
    return path + rest if rest.startswith("[") else key_path(path, rest) if rest else path

"""When items that wait become one call, and which of them: pure, with the time passed in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

__all__ = ["Batch", "BatchPolicy"]

KeyT = TypeVar("KeyT", bound="Hashable")
ItemT = TypeVar("ItemT", bound="Hashable")


@attrs.frozen
class Batch(Generic[KeyT, ItemT]):
    """Items of one key that go into one call, the oldest first."""

    key: KeyT
    items: tuple[ItemT, ...]


@attrs.define(eq=False)
class _Lane:
    """A queue that items come from."""

    slots: int | None
    """How many of its jobs run at once; `None` where that is not known."""
    held: int = 0
    """How many of its items wait or are in a call."""
    drained: bool = False
    """It has said that no job waits, and no item has come from it since."""

    @property
    def is_at_its_end(self) -> bool:
        return self.drained or (self.slots is not None and self.held >= self.slots)


@attrs.frozen(eq=False)
class _Waiting:
    units: int
    since: float


@attrs.define(eq=False)
class _Group(Generic[ItemT]):
    """What waits under one key, the oldest first."""

    waiting: dict[ItemT, _Waiting] = attrs.field(factory=dict)
    units: int = 0
    in_call: bool = False


class BatchPolicy(Generic[KeyT, ItemT]):
    """Collects items by their key until a call is due.

    A call is due when its units are enough, when its oldest item has waited for `patience_seconds`,
    or when nothing else can join: every queue has said that no job waits in it, or its slots all
    hold items already. One call of a key at a time: what comes meanwhile is for the next.
    """

    def __init__(
        self, *, batch_size: int, patience_seconds: float, slots: Mapping[str, int | None]
    ) -> None:
        self._batch_size = batch_size
        self._patience = patience_seconds
        self._lanes = {queue: _Lane(count) for queue, count in slots.items()}
        self._others = _Lane(None)
        self._groups: dict[KeyT, _Group[ItemT]] = {}
        self._held: dict[ItemT, tuple[KeyT, _Lane]] = {}

    def add(self, key: KeyT, item: ItemT, *, units: int, queue: str, now: float) -> None:
        """Let an item wait for a call of its key; it holds one of its queue's slots."""
        # From elsewhere than the queues: how many more can come from there is not known.
        lane = self._lanes.get(queue) or self._others
        lane.held += 1
        lane.drained = False
        self._held[item] = key, lane
        group = self._groups.setdefault(key, _Group())
        group.waiting[item] = _Waiting(units, now)
        group.units += units

    def release(self, item: ItemT) -> None:
        """Free the slot of an item that has its answer, or wants none any more."""
        if item not in self._held:
            return
        key, lane = self._held.pop(item)
        lane.held -= 1
        group = self._groups.get(key)
        if group is not None and item in group.waiting:
            group.units -= group.waiting.pop(item).units
            self._tidy(key)

    def nothing_waits(self, queue: str) -> None:
        """Note that no job waits in a queue; others than those that items come from do not count."""
        if queue in self._lanes:
            self._lanes[queue].drained = True

    def call_ended(self, key: KeyT) -> None:
        """Note that the call of a key has ended, so that the next may begin."""
        self._groups[key].in_call = False
        self._tidy(key)

    def next_due(self) -> float:
        """Return when a call will be due if nothing happens: a time, past ones too, or infinity."""
        closed = self._nothing_can_join()
        return min(
            (self._due_at(group, closed) for group in self._groups.values()), default=math.inf
        )

    def take(self, now: float) -> list[Batch[KeyT, ItemT]]:
        """Take out what is due; each batch is in its call until `call_ended`."""
        closed = self._nothing_can_join()
        due = [key for key, group in self._groups.items() if self._due_at(group, closed) <= now]
        return [self._take_from(key) for key in due]

    def _nothing_can_join(self) -> bool:
        return not self._others.held and all(lane.is_at_its_end for lane in self._lanes.values())

    def _due_at(self, group: _Group[ItemT], closed: bool) -> float:
        if group.in_call or not group.waiting:
            return math.inf
        if closed or group.units >= self._batch_size:
            return -math.inf
        oldest = next(iter(group.waiting.values()))
        return oldest.since + self._patience

    def _take_from(self, key: KeyT) -> Batch[KeyT, ItemT]:
        """Take the oldest item, however many units it has, and of the others what fits beside it.

        One that does not fit lets smaller ones pass, and is never passed by more calls than it has
        items before it: each call takes the oldest.
        """
        group = self._groups[key]
        room = self._batch_size
        taken: list[ItemT] = []
        for item, waiting in group.waiting.items():
            if waiting.units <= room or not taken:
                taken.append(item)
                room -= waiting.units
            if room <= 0:
                break
        for item in taken:
            group.units -= group.waiting.pop(item).units
        group.in_call = True
        return Batch(key, tuple(taken))

    def _tidy(self, key: KeyT) -> None:
        # Keys come from jobs' data: those that nobody uses must not be kept.
        group = self._groups[key]
        if not group.waiting and not group.in_call:
            del self._groups[key]

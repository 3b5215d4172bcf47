"""Which items run at once: pure, on a source that hands out what it is told."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import anyio
import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from worker_core_batch.dispatch import Limits, dispatch
from worker_core_batch.sources import Entry, InlineRequests

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core import JSON


def requests(types: str) -> list[JSON]:
    """Requests of one type for each letter."""
    return [
        {"custom_id": str(index), "type": letter, "body": None}
        for index, letter in enumerate(types)
    ]


@attrs.define
class Floor:
    """Where items run for a second each; keeps what ran beside what."""

    started: list[int] = attrs.field(factory=list)
    running: Counter[str] = attrs.field(factory=Counter)
    peak: int = 0
    peaks: Counter[str] = attrs.field(factory=Counter)

    async def run(self, entry: Entry) -> None:
        self.started.append(entry.index)
        self.running[entry.type] += 1
        self.peak = max(self.peak, self.running.total())
        self.peaks[entry.type] = max(self.peaks[entry.type], self.running[entry.type])
        await anyio.sleep(1)
        self.running[entry.type] -= 1


async def run_all(
    types: str,
    *,
    together: int,
    of_type: Callable[[str], int] | None = None,
    may_begin: Callable[[Floor], bool] = lambda _: True,
    skip: frozenset[int] = frozenset(),
) -> tuple[Floor, float]:
    floor = Floor()
    began = anyio.current_time()
    with anyio.fail_after(10_000):
        await dispatch(
            InlineRequests(requests(types), skip),
            floor.run,
            limits=Limits(together=together, of_type=of_type),
            may_begin=lambda: may_begin(floor),
        )
    return floor, anyio.current_time() - began


async def test_items_begin_in_order_and_so_many_at_once(autojump_clock: object) -> None:
    floor, seconds = await run_all("a" * 120, together=7)
    # Of those that begin in one moment, any may be the first.
    waves = [floor.started[begin : begin + 7] for begin in range(0, 120, 7)]
    assert [one for wave in waves for one in sorted(wave)] == list(range(120))
    assert (floor.peak, seconds) == (7, 18)


async def test_a_type_without_room_does_not_hold_up_another(autojump_clock: object) -> None:
    slots = {"a": 2, "b": 30}
    # One hundred of the slow type stand in front.
    floor, seconds = await run_all("a" * 100 + "b" * 300, together=64, of_type=slots.__getitem__)
    assert floor.peaks == {"a": 2, "b": 30}
    assert floor.started.index(100) < 64
    assert seconds == 50


async def test_what_is_read_ahead_is_bounded(autojump_clock: object) -> None:
    slots = {"a": 1, "b": 30}
    floor, _ = await run_all("a" * 700 + "b" * 10, together=64, of_type=slots.__getitem__)
    # So far back that some of the first type have to end before it is seen.
    assert floor.started.index(700) > 100
    assert len(floor.started) == 710


async def test_nothing_begins_any_more_where_it_may_not_and_what_runs_ends(
    autojump_clock: object,
) -> None:
    floor, seconds = await run_all(
        "a" * 50, together=5, may_begin=lambda floor: len(floor.started) < 10
    )
    assert (len(floor.started), floor.running.total(), seconds) == (10, 0, 2)


async def test_what_is_skipped_does_not_run(autojump_clock: object) -> None:
    skip = frozenset(range(100)) - {7, 60}
    floor, _ = await run_all("a" * 101, together=9, skip=skip)
    assert sorted(floor.started) == [7, 60, 100]


@settings(max_examples=60, deadline=None)
@given(
    types=st.text("abc", max_size=80),
    together=st.integers(1, 9),
    slots=st.fixed_dictionaries(dict.fromkeys("abc", st.integers(1, 5))),
    skip=st.frozensets(st.integers(0, 79)),
)
def test_each_item_runs_once_within_the_limits(
    types: str, together: int, slots: dict[str, int], skip: frozenset[int]
) -> None:
    async def run() -> Floor:
        floor, _ = await run_all(types, together=together, of_type=slots.__getitem__, skip=skip)
        return floor

    clock = MockClock(autojump_threshold=0)
    floor: Floor = anyio.run(run, backend="trio", backend_options={"clock": clock})
    assert sorted(floor.started) == [index for index in range(len(types)) if index not in skip]
    assert floor.peak <= together
    assert all(floor.peaks[letter] <= slots[letter] for letter in "abc")

"""When a call is due and what goes into it, with the time passed in."""

from __future__ import annotations

import math

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from worker_core.batch_policy import BatchPolicy

SIZE = 4
PATIENCE = 10.0


def policy(**slots: int | None) -> BatchPolicy[str, str]:
    return BatchPolicy(batch_size=SIZE, patience_seconds=PATIENCE, slots=slots or {"q": 100})


def add(one: BatchPolicy[str, str], *items: str, now: float = 0.0, queue: str = "q") -> None:
    for item in items:
        one.add("k", item, units=1, queue=queue, now=now)


def taken(one: BatchPolicy[str, str], now: float = 0.0) -> list[tuple[str, ...]]:
    return [batch.items for batch in one.take(now)]


def test_what_waits_goes_when_the_first_has_waited_long_enough() -> None:
    one = policy()
    assert one.next_due() == math.inf
    add(one, "a", now=1.0)
    add(one, "b", now=5.0)
    assert (one.next_due(), taken(one, 10.9)) == (11.0, [])
    assert taken(one, 11.0) == [("a", "b")]


def test_enough_goes_at_once_and_the_rest_waits_for_its_turn() -> None:
    one = policy()
    add(one, *"abcdef")
    assert taken(one) == [("a", "b", "c", "d")]
    assert (one.next_due(), taken(one, 1000.0)) == (math.inf, [])
    one.call_ended("k")
    assert one.next_due() == PATIENCE


def test_an_empty_queue_lets_go_what_waits_until_it_brings_an_item() -> None:
    one = policy()
    add(one, "a")
    one.nothing_waits("q")
    assert taken(one) == [("a",)]
    add(one, "b")
    one.call_ended("k")
    assert taken(one) == []


def test_every_queue_must_be_at_its_end() -> None:
    one = policy(q=100, other=2)
    add(one, "a")
    one.nothing_waits("q")
    assert taken(one) == []
    add(one, "b", "c", queue="other")
    assert taken(one) == [("a", "b", "c")]


def test_what_comes_from_elsewhere_waits_for_more_from_there() -> None:
    one = policy(q=100)
    one.nothing_waits("q")
    add(one, "a", queue="a batch's")
    assert taken(one) == []
    assert one.next_due() == PATIENCE
    add(one, *"bcd", queue="a batch's")
    assert taken(one) == [("a", "b", "c", "d")]
    for item in "abcd":
        one.release(item)
    # Nobody is there from elsewhere any more.
    add(one, "e")
    one.call_ended("k")
    one.nothing_waits("q")
    assert taken(one) == [("e",)]


def test_slots_that_all_hold_items_let_go_what_waits() -> None:
    one = policy(q=3)
    add(one, "a", "b")
    assert taken(one) == []
    add(one, "c")
    assert taken(one) == [("a", "b", "c")]
    # An item that has its answer gives its slot free, so that another may join.
    one.release("a")
    one.call_ended("k")
    add(one, "d", now=1.0)
    assert taken(one, 1.0) == [("d",)]


def test_a_queue_of_unknown_slots_is_at_its_end_only_when_it_says_so() -> None:
    one = policy(q=None)
    add(one, "a")
    assert taken(one) == []
    one.nothing_waits("another")
    assert taken(one) == []
    one.nothing_waits("q")
    assert taken(one) == [("a",)]


def test_smaller_items_pass_one_that_does_not_fit_and_the_oldest_always_goes() -> None:
    one = policy()
    for item, units in (("a", 3), ("large", 9), ("b", 2), ("c", 1)):
        one.add("k", item, units=units, queue="q", now=0.0)
    assert taken(one) == [("a", "c")]
    one.call_ended("k")
    assert taken(one) == [("large",)]
    one.call_ended("k")
    assert taken(one, PATIENCE) == [("b",)]


@attrs.frozen
class Item:
    number: int
    key: str
    units: int
    queue: str
    since: float


class Collecting(RuleBasedStateMachine):
    """Anything may happen in any order; a plain model says what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.policy: BatchPolicy[str, Item] = BatchPolicy(
            batch_size=SIZE, patience_seconds=PATIENCE, slots={"p": 3, "q": 6, "r": None}
        )
        self.now = 0.0
        self.waiting: list[Item] = []
        self.calls: dict[str, list[Item]] = {}
        self.held: list[Item] = []
        self.drained = {"p": False, "q": False, "r": False}
        self.numbers = iter(range(10**9))

    @rule(key=st.sampled_from("ab"), units=st.integers(1, SIZE + 2), queue=st.sampled_from("pqr"))
    def item_comes(self, key: str, units: int, queue: str) -> None:
        item = Item(next(self.numbers), key, units, queue, self.now)
        self.policy.add(key, item, units=units, queue=queue, now=self.now)
        self.waiting.append(item)
        self.held.append(item)
        self.drained[queue] = False
        self.take()

    @rule(queue=st.sampled_from("pqr"))
    def queue_is_empty(self, queue: str) -> None:
        self.policy.nothing_waits(queue)
        self.drained[queue] = True
        self.take()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def item_leaves(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.held))
        self.policy.release(item)
        self.held.remove(item)
        if item in self.waiting:
            self.waiting.remove(item)
        self.take()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def call_ends(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.calls)))
        for item in self.calls.pop(key):
            self.policy.release(item)
            if item in self.held:
                self.held.remove(item)
        self.policy.call_ended(key)
        self.take()

    @rule(seconds=st.floats(0.0, 2 * PATIENCE))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.policy.next_due()) <= end:
            self.now = max(self.now, due)
            self.take()
        self.now = end

    def closed(self) -> bool:
        def full(queue: str, slots: int) -> bool:
            return sum(item.queue == queue for item in self.held) >= slots

        return (
            (self.drained["p"] or full("p", 3))
            and (self.drained["q"] or full("q", 6))
            and self.drained["r"]
        )

    def take(self) -> None:
        was_closed = self.closed()
        for batch in self.policy.take(self.now):
            of_key = [item for item in self.waiting if item.key == batch.key]
            units = sum(item.units for item in batch.items)
            assert batch.key not in self.calls
            # Due for a reason ...
            oldest = of_key[0]
            enough = sum(item.units for item in of_key) >= SIZE
            assert enough or was_closed or self.now >= oldest.since + PATIENCE
            # ... with the oldest, in order, as much as fits: no other item would.
            assert batch.items[0] == oldest
            assert list(batch.items) == [item for item in of_key if item in batch.items]
            assert units <= SIZE or len(batch.items) == 1
            rest = [item for item in of_key if item not in batch.items]
            assert all(item.units > SIZE - units for item in rest)
            self.waiting = [item for item in self.waiting if item not in batch.items]
            self.calls[batch.key] = list(batch.items)

    @invariant()
    def nothing_is_overdue(self) -> None:
        assert self.policy.next_due() > self.now
        for key in {item.key for item in self.waiting} - set(self.calls):
            of_key = [item for item in self.waiting if item.key == key]
            assert sum(item.units for item in of_key) < SIZE
            assert not self.closed()
            assert of_key[0].since + PATIENCE > self.now

    def teardown(self) -> None:
        for item in self.held:
            self.policy.release(item)
        for key in self.calls:
            self.policy.call_ended(key)
        assert not self.policy._groups
        assert not self.policy._held


TestCollecting = Collecting.TestCase
TestCollecting.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)

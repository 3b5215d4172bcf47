"""Jobs that share a call: collected, answered one by one, and each with an end of its own."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests._runtime.support import run_virtual
from worker_core.batching import Batcher, Blame, BrokenCall
from worker_core.errors import EngineError, FailureClass, Fault, InvalidRequest
from worker_core.signals import RateLimited

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

SIZE = 8


class Refused(Exception):
    """An item was at fault, or may have been."""


@attrs.define(eq=False)
class Server:
    """Answers items in upper case, one second after the call began; refuses what is poison."""

    seconds: float = 1.0
    poison: frozenset[str] = frozenset()
    error: Exception = attrs.field(factory=lambda: EngineError(FailureClass.BAD_INPUT, "no"))
    answers_less: bool = False
    calls: list[tuple[str, tuple[str, ...], float]] = attrs.field(factory=list)
    cancelled: int = 0
    under_way: list[str] = attrs.field(factory=list)

    async def call(self, key: str, items: Sequence[str]) -> list[str]:
        assert key not in self.under_way
        self.under_way.append(key)
        self.calls.append((key, tuple(items), anyio.current_time()))
        try:
            await anyio.sleep(self.seconds)
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        finally:
            self.under_way.remove(key)
        if self.poison & set(items):
            raise self.error
        return [item.upper() for item in items][self.answers_less :]

    @property
    def sizes(self) -> list[int]:
        return [len(items) for _, items, _ in self.calls]


@asynccontextmanager
async def batching(
    server: Server, blame: Blame = Blame.ITEM, slots: int | None = 1000
) -> AsyncIterator[Batcher[str, str, str]]:
    batcher: Batcher[str, str, str] = Batcher(
        server.call,
        batch_size=SIZE,
        batch_timeout=timedelta(seconds=10),
        slots={"q": slots},
        blame=lambda _: blame,
    )
    async with batcher:
        yield batcher


async def submit_all(
    batcher: Batcher[str, str, str], items: Sequence[str], key: str = "k"
) -> list[str | Exception]:
    """Submit at the same time; the answers and errors in the items' order."""
    outcomes: list[str | Exception] = [""] * len(items)

    async def one(index: int) -> None:
        try:
            outcomes[index] = await batcher.submit(key, items[index], queue="q")
        except Exception as error:  # noqa: BLE001  # it is what the test looks at
            outcomes[index] = error

    async with anyio.create_task_group() as tasks:
        for index in range(len(items)):
            tasks.start_soon(one, index)
            # In order: a task group starts its tasks in any.
            await anyio.wait_all_tasks_blocked()
    return outcomes


async def test_what_waits_at_the_same_time_becomes_one_call(autojump_clock: object) -> None:
    server = Server()
    async with batching(server) as batcher:
        assert await submit_all(batcher, ["a", "b", "c"]) == ["A", "B", "C"]
    assert server.calls == [("k", ("a", "b", "c"), 10.0)]


async def test_an_empty_queue_sends_at_once(autojump_clock: object) -> None:
    server = Server()
    async with batching(server) as batcher, anyio.create_task_group() as tasks:
        tasks.start_soon(submit_all, batcher, ["a", "b"])
        await anyio.sleep(5)
        assert not server.calls
        batcher.nothing_waits("q")
    assert server.calls == [("k", ("a", "b"), 5.0)]


async def test_full_slots_send_at_once(autojump_clock: object) -> None:
    server = Server()
    async with batching(server, slots=3) as batcher:
        await submit_all(batcher, ["a", "b", "c"])
    assert server.calls == [("k", ("a", "b", "c"), 0.0)]


async def test_keys_have_calls_of_their_own_and_one_each_at_a_time(autojump_clock: object) -> None:
    server = Server()
    async with batching(server) as batcher, anyio.create_task_group() as tasks:
        for key in "kl":
            tasks.start_soon(submit_all, batcher, ["x"] * 2 * SIZE, key)
    assert sorted((key, at) for key, _, at in server.calls) == [
        ("k", 0.0),
        ("k", 1.0),
        ("l", 0.0),
        ("l", 1.0),
    ]


async def test_who_is_cancelled_while_it_waits_leaves_the_batch(autojump_clock: object) -> None:
    server = Server()
    async with batching(server) as batcher, anyio.create_task_group() as tasks:
        tasks.start_soon(submit_all, batcher, ["a", "b"])
        with anyio.move_on_after(5) as gone:
            await batcher.submit("k", "gone", queue="q")
    assert gone.cancelled_caught
    assert [items for _, items, _ in server.calls] == [("a", "b")]


async def test_who_is_cancelled_in_a_call_takes_nobody_along(autojump_clock: object) -> None:
    server = Server()
    outcomes: list[object] = []

    async def others() -> None:
        outcomes.extend(await submit_all(batcher, ["a", "b"]))

    async with batching(server) as batcher, anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        with anyio.move_on_after(10.5) as gone:
            await batcher.submit("k", "gone", queue="q")
    assert gone.cancelled_caught
    assert outcomes == ["A", "B"]
    assert (server.sizes, server.cancelled) == ([3], 0)


async def test_a_call_that_nobody_waits_for_any_more_is_cancelled(autojump_clock: object) -> None:
    server = Server(seconds=math.inf)
    async with batching(server) as batcher:
        for _ in range(2):
            began = anyio.current_time()
            with anyio.move_on_after(11):
                await submit_all(batcher, ["a", "b"])
            await anyio.wait_all_tasks_blocked()
            assert anyio.current_time() == began + 11
    # And the next one of its key could begin.
    assert server.cancelled == 2


async def test_a_call_counts_those_who_leave_just_as_it_begins(autojump_clock: object) -> None:
    # At the same moment as the call becomes due: which task is first, trio decides by chance.
    for _ in range(30):
        server = Server(seconds=math.inf)
        async with batching(server) as batcher, anyio.create_task_group() as tasks:
            for seconds in (10, 11):
                tasks.start_soon(leave_after, batcher, seconds)
            await anyio.sleep(12)
            assert not server.under_way


async def leave_after(batcher: Batcher[str, str, str], seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await batcher.submit("k", "a", queue="q")


async def test_a_call_waits_for_the_jobs_that_follow_on_those_just_answered(
    autojump_clock: object,
) -> None:
    for _ in range(10):
        server = Server()
        async with batching(server, slots=4) as batcher, anyio.create_task_group() as tasks:

            async def two_jobs(batcher: Batcher[str, str, str] = batcher) -> None:
                await submit_all(batcher, ["a", "b"])
                await submit_all(batcher, ["e", "f"])

            tasks.start_soon(two_jobs)
            await anyio.sleep(1)
            batcher.nothing_waits("q")
            await anyio.sleep(0.5)
            tasks.start_soon(submit_all, batcher, ["c", "d"])
        assert server.sizes == [2, 4]


async def test_an_item_at_fault_fails_alone(autojump_clock: object) -> None:
    server = Server(poison=frozenset("f"))
    async with batching(server) as batcher:
        *before, bad, seventh, eighth = await submit_all(batcher, [*"abcdefgh"])
    assert (before, seventh, eighth) == ([*"ABCDE"], "G", "H")
    assert isinstance(bad, EngineError)
    assert server.sizes == [8, 4, 4, 2, 2, 1, 1]


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, SIZE),
    bad=st.sets(st.integers(0, SIZE - 1)),
    gone=st.sets(st.integers(0, SIZE - 1)),
)
def test_whoever_stays_gets_its_own_answer_or_its_own_fault(
    count: int, bad: set[int], gone: set[int]
) -> None:
    items = [f"item {number}" for number in range(count)]
    server = Server(poison=frozenset(f"item {number}" for number in bad))
    outcomes: dict[int, object] = {}

    async def one(batcher: Batcher[str, str, str], number: int) -> None:
        # Who goes does so while the call is being halved.
        with anyio.move_on_after(12.5 if number in gone else math.inf):
            try:
                outcomes[number] = await batcher.submit("k", items[number], queue="q")
            except EngineError as error:
                outcomes[number] = error

    async def run() -> None:
        async with batching(server) as batcher, anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(one, batcher, number)

    run_virtual(run)
    for number in range(count):
        if number in bad:
            assert isinstance(outcomes.get(number), EngineError) or number in gone
        elif number not in gone:
            assert outcomes[number] == items[number].upper()
    assert len(server.calls) <= 2 * SIZE - 1
    left = {items[number] for number in gone if number < count}
    assert not any(left & set(asked) for _, asked, at in server.calls if at > 12.5)
    assert not server.under_way


async def test_where_neither_half_goes_through_it_was_not_the_items(
    autojump_clock: object,
) -> None:
    server = Server(poison=frozenset("abcdefgh"))
    async with batching(server, Blame.UNCLEAR) as batcher:
        outcomes = await submit_all(batcher, [*"abcdefgh"])
    assert all(isinstance(one, EngineError) for one in outcomes)
    assert server.sizes == [8, 4, 4]


async def test_an_item_that_may_be_at_fault_is_found_where_the_others_go_through(
    autojump_clock: object,
) -> None:
    server = Server(poison=frozenset("c"))
    async with batching(server, Blame.UNCLEAR) as batcher:
        outcomes = await submit_all(batcher, [*"abcdefgh"])
    assert [one for one in outcomes if isinstance(one, str)] == [*"ABDEFGH"]


async def test_a_fault_of_the_call_fails_every_item_with_an_error_of_its_own(
    autojump_clock: object,
) -> None:
    original = EngineError(FailureClass.BUSY, "too much to do", status=503)
    server = Server(poison=frozenset("a"), error=original)
    async with batching(server, Blame.CALL) as batcher:
        first, second = await submit_all(batcher, ["a", "b"])
    assert server.sizes == [2]
    for error in (first, second):
        assert isinstance(error, EngineError)
        assert (error.failure, error.status) == (FailureClass.BUSY, 503)
        assert str(error) == str(original)
        assert error.__cause__ is original
    assert first is not second


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest([Fault("input", "must not be empty"), Fault("model", "missing")]),
        RateLimited(timedelta(seconds=3)),
    ],
    ids=repr,
)
async def test_an_error_comes_out_as_it_went_in(autojump_clock: object, error: Exception) -> None:
    server = Server(poison=frozenset("a"), error=error)
    async with batching(server, Blame.CALL) as batcher:
        (copy,) = await submit_all(batcher, ["a"])
    assert isinstance(copy, type(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))


async def test_a_call_that_fails_while_it_is_halved_is_not_made_for_every_item(
    autojump_clock: object,
) -> None:
    """The server goes away in the middle: that is nobody's fault."""
    server = Server(poison=frozenset("abcdefgh"))
    blames = iter([Blame.ITEM, Blame.CALL, Blame.CALL])
    batcher: Batcher[str, str, str] = Batcher(
        server.call,
        batch_size=SIZE,
        batch_timeout=timedelta(seconds=10),
        slots={"q": None},
        blame=lambda _: next(blames),
    )
    async with batcher:
        await submit_all(batcher, [*"abcdefgh"])
    assert server.sizes == [8, 4]


async def test_a_bug_in_the_call_is_its_jobs_failure_and_ends_nothing_else(
    autojump_clock: object,
) -> None:
    server = Server(poison=frozenset("a"), error=Refused("a bug"))
    async with batching(server, Blame.CALL) as batcher:
        (failed,) = await submit_all(batcher, ["a"])
        assert await submit_all(batcher, ["b"]) == ["B"]
    assert isinstance(failed, BrokenCall)
    assert "Refused('a bug')" in str(failed)


async def test_an_answer_too_few_is_refused(autojump_clock: object) -> None:
    server = Server(answers_less=True)
    async with batching(server, Blame.CALL) as batcher:
        first, _ = await submit_all(batcher, ["a", "b"])
    assert isinstance(first, BrokenCall)
    assert "2 items with 1 answers" in str(first)


async def test_without_being_entered_it_takes_nothing(autojump_clock: object) -> None:
    batcher: Batcher[str, str, str] = Batcher(
        Server().call, batch_size=1, batch_timeout=timedelta(seconds=1), slots={"q": None}
    )
    with pytest.raises(RuntimeError, match="not been entered"):
        await batcher.submit("k", "a", queue="q")

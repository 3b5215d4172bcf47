"""Places on a host: who comes next."""

from __future__ import annotations

import anyio
import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests._runtime.support import run_virtual
from worker_core._runtime.places import ArrivalOrder, Places, Ticket


class ByModel:
    """Another policy: by the model's name."""

    def rank(self, ticket: Ticket) -> tuple[int, ...]:
        return tuple(map(ord, ticket.model))


@attrs.define(eq=False)
class Held:
    """Places, and who holds one, the longest first."""

    places: Places
    tickets: list[Ticket] = attrs.field(factory=list)

    def release(self) -> None:
        self.places.release(self.tickets.pop(0))


class Waiters:
    """Tasks that wait for a place, and the order in which they were served."""

    def __init__(self, held: Held, tasks: anyio.abc.TaskGroup) -> None:
        self.served: list[str] = []
        self.scopes: dict[str, anyio.CancelScope] = {}
        self._held = held
        self._tasks = tasks

    async def add(
        self, name: str, *, express: bool = False, model: str = "m", share: float = 1.0
    ) -> None:
        async def wait() -> None:
            with anyio.CancelScope() as scope:
                self.scopes[name] = scope
                ticket = await self._held.places.acquire(model, express=express, share=share)
                self._held.tickets.append(ticket)
                self.served.append(name)

        self._tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()

    async def release(self, count: int = 1) -> None:
        """Give back the places that have been held longest, one after the other."""
        for _ in range(count):
            self._held.release()
            await anyio.wait_all_tasks_blocked()


async def taken(total: int = 1, policy: object = None, *, share: float = 1.0) -> Held:
    """Return places that are all taken."""
    held = Held(Places(total, policy or ArrivalOrder()))  # type: ignore[arg-type]
    for _ in range(total):
        held.tickets.append(await held.places.acquire("m", express=False, share=share))
    return held


async def test_free_places_are_taken_without_waiting() -> None:
    places = Places(2, ArrivalOrder())
    with anyio.fail_after(0.1):
        await places.acquire("m", express=False)
        await places.acquire("m", express=True)


async def test_places_go_in_order_of_arrival() -> None:
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(await taken(), tasks)
        for name in "abc":
            await waiters.add(name)
        assert waiters.served == []
        for count in (1, 2, 3):
            await waiters.release()
            assert waiters.served == list("abc")[:count]


async def test_express_goes_first_among_those_who_wait() -> None:
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(await taken(), tasks)
        await waiters.add("slow 1")
        await waiters.add("fast 1", express=True)
        await waiters.add("slow 2")
        await waiters.add("fast 2", express=True)
        for _ in range(4):
            await waiters.release()
        assert waiters.served == ["fast 1", "fast 2", "slow 1", "slow 2"]


async def test_the_policy_decides_and_arrival_breaks_the_tie() -> None:
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(await taken(policy=ByModel()), tasks)
        await waiters.add("b 1", model="b")
        await waiters.add("a 1", model="a")
        await waiters.add("a 2", model="a")
        for _ in range(3):
            await waiters.release()
        assert waiters.served == ["a 1", "a 2", "b 1"]


async def test_nobody_overtakes_who_waits_while_a_place_is_on_its_way() -> None:
    held = await taken()
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(held, tasks)
        await waiters.add("first")
        held.release()  # handed to "first", which has not run yet
        await waiters.add("second")
        assert waiters.served == ["first"]
        await waiters.release()
        assert waiters.served == ["first", "second"]


async def test_who_is_cancelled_leaves_the_line() -> None:
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(await taken(), tasks)
        for name in "abc":
            await waiters.add(name)
        waiters.scopes["a"].cancel()
        await anyio.wait_all_tasks_blocked()
        await waiters.release()
        await waiters.release()
        assert waiters.served == ["b", "c"]


async def test_a_place_that_comes_with_a_cancel_goes_on_to_the_next() -> None:
    held = await taken()
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(held, tasks)
        await waiters.add("a")
        await waiters.add("b")
        # trio delivers the cancel, for the task has not run since the place was handed over.
        waiters.scopes["a"].cancel()
        held.release()
        await anyio.wait_all_tasks_blocked()
        assert waiters.served == ["b"]


async def test_a_place_that_comes_with_a_cancel_is_free_where_nobody_waits() -> None:
    held = await taken()
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(held, tasks)
        await waiters.add("a")
        waiters.scopes["a"].cancel()
        held.release()
        await anyio.wait_all_tasks_blocked()
        await waiters.add("b")
        assert waiters.served == ["b"]


async def test_who_gives_way_holds_its_share_at_most_while_others_wait() -> None:
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(await taken(4), tasks)
        for number in range(6):
            await waiters.add(f"batch {number}", share=0.5)
        for number in range(4):
            await waiters.add(f"chat {number}")
        # The batch came first, and has its half; what is over waits for the others.
        await waiters.release(4)
        assert waiters.served == ["batch 0", "batch 1", "chat 0", "chat 1"]
        # One of its own goes: it may have the next.
        await waiters.release()
        assert waiters.served[4:] == ["batch 2"]
        tasks.cancel_scope.cancel()


async def test_who_gives_way_may_have_every_place_that_nobody_else_waits_for() -> None:
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(await taken(3, share=0.5), tasks)
        for number in range(3):
            await waiters.add(f"batch {number}", share=0.5)
        await waiters.release(2)
        assert waiters.served == ["batch 0", "batch 1"]
        # Over its share: now it is the others' turn, until they all are served.
        await waiters.add("chat 0")
        await waiters.add("chat 1")
        await waiters.release(3)
        assert waiters.served[2:] == ["chat 0", "chat 1", "batch 2"]


async def test_less_than_one_place_is_one_turn_in_so_many() -> None:
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(await taken(1), tasks)
        for number in range(3):
            await waiters.add(f"b{number}", share=0.25)
        for number in range(6):
            await waiters.add(f"c{number}")
        await waiters.release(9)
        assert waiters.served == ["c0", "c1", "c2", "b0", "c3", "c4", "c5", "b1", "b2"]


async def test_express_goes_before_who_gives_way() -> None:
    async with anyio.create_task_group() as tasks:
        waiters = Waiters(await taken(2), tasks)
        await waiters.add("batch", share=0.5)
        await waiters.add("fast", express=True)
        await waiters.release()
        assert waiters.served == ["fast"]
        tasks.cancel_scope.cancel()


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 3),
    jobs=st.lists(
        st.tuples(
            st.integers(0, 6),  # when it comes
            st.integers(0, 4),  # how long it keeps its place
            st.integers(1, 8),  # how long it is ready to wait
            st.booleans(),
            st.sampled_from([1.0, 0.5]),
        ),
        max_size=12,
    ),
)
def test_no_place_is_lost_and_none_given_twice(
    total: int, jobs: list[tuple[int, int, int, bool, float]]
) -> None:
    async def run() -> None:
        places = Places(total, ArrivalOrder())
        held = 0

        async def job(begin: int, keep: int, patience: int, express: bool, share: float) -> None:
            nonlocal held
            await trio.sleep(begin)
            got = None
            with trio.move_on_after(patience):
                got = await places.acquire("m", express=express, share=share)
            if got is not None:
                held += 1
                assert held <= total
                await trio.sleep(keep)
                held -= 1
                places.release(got)

        async with trio.open_nursery() as nursery:
            for one in jobs:
                nursery.start_soon(job, *one)
        # Afterwards every place is free again.
        with trio.fail_after(1):
            for _ in range(total):
                await places.acquire("m", express=False)
        with trio.move_on_after(1) as waited:
            await places.acquire("m", express=False)
        assert waited.cancelled_caught

    run_virtual(run)

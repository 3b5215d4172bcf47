"""The scope of one job: its clock, and the recorded reason for every stop."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests._runtime.support import new_scope, run_virtual, running
from worker_core._runtime.scope import RETURN_SECONDS, JobScope, StopReason

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_a_job_that_ends_in_time_was_not_stopped(autojump_clock: object) -> None:
    scope = new_scope()
    scope.end_by(anyio.current_time() + 10)
    with running(scope):
        scope.limit(5)
        await anyio.sleep(4)
    assert scope.reason is None


async def test_its_own_time_stops_a_job(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()
    with running(scope):
        scope.limit(5)
        await anyio.sleep_forever()
    assert scope.reason is StopReason.DEADLINE
    assert anyio.current_time() - began == 5
    assert scope.limit_text == "5 s"


async def test_the_drain_stops_a_job_whose_own_time_is_longer(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()
    with running(scope):
        scope.limit(50)
        scope.end_by(began + 3)
        await anyio.sleep_forever()
    assert scope.reason is StopReason.DRAIN
    assert anyio.current_time() - began == 3


async def test_the_drain_only_shortens(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()
    with running(scope):
        scope.limit(5)
        scope.end_by(began + 100)
        await anyio.sleep_forever()
    assert (scope.reason, anyio.current_time() - began) == (StopReason.DEADLINE, 5)


async def test_a_later_drain_does_not_lengthen_an_earlier_one(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()
    with running(scope):
        scope.end_by(began + 3)
        scope.end_by(began + 30)
        await anyio.sleep_forever()
    assert (scope.reason, anyio.current_time() - began) == (StopReason.DRAIN, 3)


async def test_a_drain_that_is_over_stops_a_job_that_begins(autojump_clock: object) -> None:
    scope = new_scope()
    scope.end_by(anyio.current_time() - 1)
    with running(scope):
        await anyio.sleep_forever()
    assert scope.reason is StopReason.DRAIN


async def test_nobody_else_can_stop_a_job(autojump_clock: object) -> None:
    scope = new_scope()
    with anyio.move_on_after(1), running(scope):
        scope.limit(5)
        await anyio.sleep_forever()
    assert scope.reason is StopReason.DEADLINE


async def test_who_cancels_says_why(autojump_clock: object) -> None:
    scope = new_scope()
    with running(scope):
        scope.cancel(StopReason.DRAIN)
        await anyio.sleep_forever()
    assert scope.reason is StopReason.DRAIN


async def test_a_lost_lock_outranks_every_reason(autojump_clock: object) -> None:
    scope = new_scope()
    with running(scope):
        scope.cancel(StopReason.DRAIN)
        scope.cancel(StopReason.LOCK_LOST)
        scope.cancel(StopReason.DEADLINE)
        await anyio.sleep_forever()
    assert scope.reason is StopReason.LOCK_LOST


async def test_a_lock_lost_while_the_last_step_ran_is_recorded(autojump_clock: object) -> None:
    scope = new_scope()
    with running(scope):
        scope.cancel(StopReason.LOCK_LOST)  # and the job does not wait for anything any more
    assert scope.reason is StopReason.LOCK_LOST


async def test_a_job_that_ends_in_the_moment_of_its_deadline_has_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scope = new_scope()
    with running(scope):
        scope.limit(5)
        autojump_clock.jump(6)
    assert scope.reason is None


async def test_what_stopped_a_job_stays_so_while_it_cleans_up(autojump_clock: object) -> None:
    scope = new_scope()

    async def drain() -> None:
        await anyio.sleep(6)
        scope.end_by(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain)
        with running(scope):
            scope.limit(5)
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.move_on_after(3, shield=True):
                    await anyio.sleep(2)
    assert scope.reason is StopReason.DEADLINE


async def test_the_own_clock_stands_still_during_a_pause(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()
    with running(scope):
        scope.limit(5)
        await anyio.sleep(2)
        with scope.paused():
            assert scope.seconds_left == 3
            await anyio.sleep(100)
            assert scope.seconds_left == 3
        await anyio.sleep(1)
        assert scope.seconds_left == 2
        await anyio.sleep_forever()
    assert (scope.reason, anyio.current_time() - began) == (StopReason.DEADLINE, 105)


async def test_pauses_of_several_tasks_end_with_the_last(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()

    async def pause(begin: float, seconds: float) -> None:
        await anyio.sleep(begin)
        with scope.paused():
            await anyio.sleep(seconds)

    async with anyio.create_task_group() as tasks:
        with running(scope):
            scope.limit(5)
            tasks.start_soon(pause, 1, 10)
            tasks.start_soon(pause, 4, 20)
            await anyio.sleep_forever()
    # One second before the first pause, four after the last: 1 + (24 - 1) + 4.
    assert (scope.reason, anyio.current_time() - began) == (StopReason.DEADLINE, 28)


async def test_the_drain_does_not_stand_still_during_a_pause(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()
    with running(scope):
        scope.limit(5)
        with scope.paused():
            scope.end_by(began + 30)
            await anyio.sleep_forever()
    assert (scope.reason, anyio.current_time() - began) == (StopReason.DRAIN, 30)


async def test_a_pause_without_a_limit_changes_nothing(autojump_clock: object) -> None:
    scope = new_scope()
    with running(scope):
        assert scope.seconds_left == math.inf
        with scope.paused():
            await anyio.sleep(1000)
        assert scope.seconds_left == math.inf
    assert scope.reason is None


# --- Settling ---


async def test_settling_has_a_bound_of_its_own(autojump_clock: object) -> None:
    scope = new_scope()
    with running(scope):
        scope.limit(5)
        await anyio.sleep_forever()
    began = anyio.current_time()
    with scope.settling(120) as bound:
        await anyio.sleep_forever()
    assert bound.cancelled_caught
    assert anyio.current_time() - began == 120
    assert scope.reason is StopReason.DEADLINE


async def test_settling_is_shielded_from_the_worker(autojump_clock: object) -> None:
    scope = new_scope()
    with anyio.move_on_after(1), scope.settling(120) as bound:
        await anyio.sleep(60)
    assert not bound.cancelled_caught


async def test_a_drain_leaves_settling_the_time_to_put_the_job_back(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()
    scope.end_by(began + 10)
    with running(scope):
        await anyio.sleep_forever()
    with scope.settling(120) as bound:
        await anyio.sleep_forever()
    assert bound.cancelled_caught
    assert anyio.current_time() - began == 10 + RETURN_SECONDS


async def test_a_drain_that_begins_during_settling_shortens_it(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()
    with scope.settling(120):
        scope.end_by(began + 1)
        await anyio.sleep_forever()
    assert anyio.current_time() - began == 1 + RETURN_SECONDS


async def test_a_lock_lost_during_settling_does_not_end_it(autojump_clock: object) -> None:
    # After a lost reply a renewal finds no lock because the finish has run: to be found out yet.
    scope = new_scope()
    with scope.settling(120) as bound:
        scope.cancel(StopReason.LOCK_LOST)
        await anyio.sleep(100)
    assert not bound.cancelled_caught
    assert scope.reason is None


@pytest.mark.parametrize(
    "stop",
    [
        lambda scope: scope.limit(1),
        lambda scope: scope.end_by(anyio.current_time() + 1),
        lambda scope: scope.cancel(StopReason.DRAIN),
    ],
    ids=["deadline", "drain", "hurried drain"],
)
async def test_a_wish_outranks_the_clocks_also_while_the_job_ends(
    autojump_clock: object, stop: Callable[[JobScope], None]
) -> None:
    scope = new_scope()
    with running(scope):
        stop(scope)
        try:
            await anyio.sleep_forever()
        finally:
            scope.cancel(StopReason.CANCELLED)
    assert scope.reason is StopReason.CANCELLED


async def test_a_lost_lock_outranks_a_wish(autojump_clock: object) -> None:
    for order in ([StopReason.CANCELLED, StopReason.LOCK_LOST], [*StopReason][::-1]):
        scope = new_scope()
        with running(scope):
            for reason in order:
                scope.cancel(reason)
            await anyio.sleep_forever()
        assert scope.reason is StopReason.LOCK_LOST


async def test_a_wish_while_the_outcome_is_written_changes_nothing(autojump_clock: object) -> None:
    scope = new_scope()
    with running(scope):
        assert scope.settle_within(5)
        scope.cancel(StopReason.CANCELLED)
        await anyio.sleep(1)
    assert scope.reason is None


@pytest.mark.parametrize("reason", [StopReason.DRAIN, StopReason.DEADLINE])
async def test_a_cleanup_that_raises_stands_for_the_stop_that_it_came_from(
    autojump_clock: object, reason: StopReason
) -> None:
    scope = new_scope()
    if reason is StopReason.DRAIN:
        scope.end_by(anyio.current_time() + 5)
    else:
        scope.limit(5)
    with running(scope):
        try:
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("the connection was closed already")
        except ValueError:
            scope.note_stop()
    assert scope.reason is reason


async def test_an_error_without_a_stop_is_no_stop(autojump_clock: object) -> None:
    scope = new_scope()
    scope.limit(5)
    with running(scope):
        scope.note_stop()
    assert scope.reason is None


@pytest.mark.parametrize("enters", ["before", "after"])
async def test_a_pause_that_outlives_the_run_does_not_stop_the_clock_of_settling(
    autojump_clock: object, enters: str
) -> None:
    # A task of the job type's own may wait for admission in the name of a job that has ended.
    scope = new_scope()
    began = anyio.current_time()

    async def pause(begin: float) -> None:
        await anyio.sleep(begin)
        with scope.paused():
            await anyio.sleep(20)

    async def drain_much_later() -> None:
        await anyio.sleep(30)
        scope.end_by(began + 1000)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pause, 1 if enters == "before" else 8)
        tasks.start_soon(drain_much_later)
        with running(scope):
            await anyio.sleep(5)
        with scope.settling(30) as bound:
            await anyio.sleep_forever()
        tasks.cancel_scope.cancel()
    assert bound.cancelled_caught
    assert anyio.current_time() - began == 35


# Times are sixteenths, which floats add up exactly.
ticks = st.integers(0, 400).map(lambda count: count / 16)


@settings(deadline=None)
@given(
    limit=st.none() | ticks.filter(bool),
    drains=st.lists(st.tuples(ticks, ticks), max_size=3),
    pauses=st.lists(st.tuples(ticks, ticks), max_size=3),
    length=ticks.filter(bool),
)
def test_a_job_stops_at_the_first_of_its_bounds_and_says_which(
    limit: float | None,
    drains: list[tuple[float, float]],
    pauses: list[tuple[float, float]],
    length: float,
) -> None:
    async def run() -> tuple[float, StopReason | None]:
        scope = new_scope()
        began = anyio.current_time()

        async def drain(begin: float, seconds: float) -> None:
            await anyio.sleep(begin)
            scope.end_by(began + begin + seconds)

        async def pause(begin: float, seconds: float) -> None:
            await anyio.sleep(begin)
            with scope.paused():
                await anyio.sleep(seconds)

        async with anyio.create_task_group() as tasks:
            with running(scope):
                if limit is not None:
                    scope.limit(limit)
                for one in drains:
                    tasks.start_soon(drain, *one)
                for one in pauses:
                    tasks.start_soon(pause, *one)
                await anyio.sleep(length)
            ended = anyio.current_time() - began
            tasks.cancel_scope.cancel()
        return ended, scope.reason

    ended, reason = run_virtual(run)
    own = _own_deadline(limit, pauses)
    drain_at = min((begin + seconds for begin, seconds in drains), default=math.inf)
    assert ended == min(length, own, drain_at)
    if reason is None:
        assert ended == length
    elif reason is StopReason.DRAIN:
        assert drain_at <= own
    else:
        assert own <= drain_at
    # Where one bound clearly comes first, the reason is that one and no other.
    bounds = [(length, None), (own, StopReason.DEADLINE), (drain_at, StopReason.DRAIN)]
    first = [why for at, why in bounds if at == ended]
    assert reason in first


def _own_deadline(limit: float | None, pauses: list[tuple[float, float]]) -> float:
    """Walk the time in sixteenths: it counts where no pause holds."""
    if limit is None:
        return math.inf
    left, at = limit, 0.0
    while left > 0:
        if not any(begin <= at < begin + seconds for begin, seconds in pauses):
            left -= 1 / 16
        at += 1 / 16
    return at


# --- The shield, shared by the jobs of a slot ---


async def test_a_settlement_that_takes_long_is_bounded_when_that_is_enforced(
    autojump_clock: object,
) -> None:
    scope = new_scope()
    began = anyio.current_time()
    with running(scope):
        assert scope.settle_within(120)
        await anyio.sleep(7.5)
        scope.enforce()
        await anyio.sleep_forever()
    assert anyio.current_time() - began == 120
    assert (scope.is_settling, scope.reason) == (True, None)


async def test_a_short_bound_of_a_settlement_waits_for_nobody(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()
    with running(scope):
        assert scope.settle_within(2)
        await anyio.sleep(60)
    assert anyio.current_time() - began == 2
    assert scope.is_settling


async def test_a_drain_bounds_a_settlement_at_once(autojump_clock: object) -> None:
    scope = new_scope()
    began = anyio.current_time()
    scope.end_by(began + 10)
    with running(scope):
        scope.settle_within(120)
        await anyio.sleep_forever()
    assert anyio.current_time() - began == 10 + RETURN_SECONDS


async def test_a_run_that_was_stopped_is_not_settled_in_its_shield(autojump_clock: object) -> None:
    scope = new_scope()
    with running(scope):
        scope.cancel(StopReason.LOCK_LOST)
        assert not scope.settle_within(120)
    assert not scope.is_settling


async def test_a_job_that_has_ended_leaves_the_shield_to_the_next(autojump_clock: object) -> None:
    shield = trio.CancelScope(shield=True)
    first, second = JobScope(shield), JobScope(shield)
    with shield:
        first.limit(1)
        await anyio.sleep(0.5)
        first.end()
        # Whatever comes too late for it: a straggler's pause, the drain, a lost lock.
        with first.paused():
            await anyio.sleep(2)
        first.end_by(anyio.current_time())
        first.enforce()
        first.cancel(StopReason.LOCK_LOST)
        await anyio.sleep(2)
        assert second.reason is None
        second.limit(3)
        await anyio.sleep_forever()
    second.note_stop()
    assert second.reason is StopReason.DEADLINE
    assert anyio.current_time() == 7.5

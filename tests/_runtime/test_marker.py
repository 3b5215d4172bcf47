"""The wait of an idle consumer: one block, and a timer beside it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import anyio
import attrs
import pytest
from structlog.testing import capture_logs

from tests._runtime.support import task_group
from worker_core._runtime.marker import MarkerWatch
from worker_core.errors import RedisError, ReplyError, ReplyLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DRAIN_DELAY = 5.0


@attrs.define(eq=False)
class MarkedQueue:
    """Stands for the queue: when its marker is set, and how often it was asked for."""

    answers: list[tuple[float, float | RedisError | None]] = attrs.field(factory=list)
    blocks: int = 0
    posted: list[float] = attrs.field(factory=list)
    drain_delay: timedelta = timedelta(seconds=DRAIN_DELAY)
    keys: SimpleNamespace = attrs.field(factory=lambda: SimpleNamespace(name="q"))

    async def wait_for_marker(self) -> float | None:
        self.blocks += 1
        seconds, answer = self.answers.pop(0) if self.answers else (DRAIN_DELAY, None)
        await anyio.sleep(seconds)
        if isinstance(answer, RedisError):
            raise answer
        return answer

    def post_marker(self, due_at_ms: float = 0) -> None:
        self.posted.append(due_at_ms)


def in_ms(seconds: float) -> float:
    return (time.time() + seconds) * 1000


@asynccontextmanager
async def watching(queue: MarkedQueue, *, idle: bool = True) -> AsyncIterator[MarkerWatch]:
    watch = MarkerWatch(cast("Any", queue), has_free_slot=lambda: idle)
    async with task_group() as tasks:
        tasks.start_soon(watch.run)
        yield watch


async def seconds_of(watch: MarkerWatch, *, due_at_ms: float = 0) -> float:
    began = anyio.current_time()
    await watch.wait(due_at_ms=due_at_ms)
    return anyio.current_time() - began


async def test_a_marker_ends_the_wait_and_so_does_the_end_of_the_block(
    autojump_clock: object,
) -> None:
    queue = MarkedQueue([(2, 0.0)])
    async with watching(queue) as watch:
        assert await seconds_of(watch) == 2
        assert await seconds_of(watch) == DRAIN_DELAY
    assert queue.blocks == 2


async def test_a_delayed_job_ends_the_wait_at_its_time_and_the_block_goes_on(
    autojump_clock: object,
) -> None:
    queue = MarkedQueue()
    async with watching(queue) as watch:
        assert await seconds_of(watch, due_at_ms=in_ms(1)) == pytest.approx(1, abs=0.01)
        assert await seconds_of(watch) == pytest.approx(DRAIN_DELAY - 1, abs=0.01)
    assert queue.blocks == 1


async def test_a_marker_that_tells_of_a_delayed_job_sets_the_timer_and_the_block_begins_anew(
    autojump_clock: object,
) -> None:
    queue = MarkedQueue([(1, in_ms(2)), (60, None)])
    async with watching(queue) as watch:
        waited = await seconds_of(watch, due_at_ms=in_ms(8))
    # The real clock stands still here: due two seconds after the marker was popped.
    assert waited == pytest.approx(3, abs=0.01)
    assert queue.blocks == 2


@pytest.mark.parametrize("seconds", [1e9, float("inf")])
async def test_a_delay_without_end_is_asked_for_now_and_then(
    autojump_clock: object, seconds: float
) -> None:
    queue = MarkedQueue([(60, None)])
    async with watching(queue) as watch:
        assert await seconds_of(watch, due_at_ms=in_ms(seconds)) == 10


async def test_what_is_due_already_is_claimed_at_once(autojump_clock: object) -> None:
    async with watching(MarkedQueue()) as watch:
        assert await seconds_of(watch, due_at_ms=in_ms(-5)) == 0


async def test_a_lost_block_ends_the_wait(autojump_clock: object) -> None:
    queue = MarkedQueue([(1, ReplyLost("cut"))])
    async with watching(queue) as watch:
        assert await seconds_of(watch) == 1


@pytest.mark.parametrize("idle", [True, False])
async def test_a_marker_that_comes_when_no_slot_is_free_is_left_to_other_workers(
    autojump_clock: object, *, idle: bool
) -> None:
    queue = MarkedQueue([(3, 0.0)])
    async with watching(queue, idle=idle) as watch:
        await watch.wait(due_at_ms=in_ms(1))
        await anyio.sleep(5)
    assert queue.posted == ([] if idle else [0.0])


async def test_the_end_of_a_block_is_no_marker(autojump_clock: object) -> None:
    queue = MarkedQueue([(3, None)])
    async with watching(queue, idle=False) as watch:
        await watch.wait(due_at_ms=in_ms(1))
        await anyio.sleep(5)
    assert queue.posted == []


async def test_a_wait_that_ends_at_once_begins_no_block(autojump_clock: object) -> None:
    queue = MarkedQueue([(3, 0.0)])
    async with watching(queue, idle=False) as watch:
        await watch.wait(due_at_ms=in_ms(1))  # the timer was first
        await anyio.sleep(5)  # the block ended meanwhile, and its marker was put back
        assert await seconds_of(watch) == 0
        await anyio.sleep(0.1)  # the claim that follows, which finds nothing
        # A block here would pop the marker that was put back, put it back again, and so on.
        assert queue.blocks == 1


async def test_a_delayed_job_that_comes_when_no_slot_is_free_is_left_to_other_workers(
    autojump_clock: object,
) -> None:
    due_at_ms = in_ms(9)
    queue = MarkedQueue([(3, due_at_ms)])
    async with watching(queue, idle=False) as watch:
        await watch.wait(due_at_ms=in_ms(1))
        await anyio.sleep(30)
    assert queue.posted == [due_at_ms]
    assert queue.blocks == 1


async def test_a_server_that_refuses_the_wait_is_asked_now_and_then_and_said_so_once(
    autojump_clock: object,
) -> None:
    refused = ReplyError("NOPERM no permission to run the 'bzpopmin' command")
    queue = MarkedQueue([(0, refused), (0, refused), (1, 0.0)])
    async with watching(queue) as watch:
        with capture_logs() as logs:
            assert await seconds_of(watch) == DRAIN_DELAY
            assert await seconds_of(watch) == DRAIN_DELAY
        assert watch.trouble == str(refused)
        assert [entry["log_level"] for entry in logs] == ["error"]
        await watch.wait(due_at_ms=0)
        assert watch.trouble is None

"""The keeper: renews the locks of all running jobs of a queue in one call."""

from __future__ import annotations

import itertools
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest
from structlog.testing import capture_logs

from tests._runtime.support import new_scope, running, task_group
from worker_core._runtime.keeper import Keeper
from worker_core._runtime.scope import StopReason
from worker_core.errors import RedisUnavailable, ReplyError, ReplyLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

RENEW_TIME = timedelta(seconds=15)
TICK = 7.5


@attrs.define(eq=False)
class LockQueue:
    """Stands for the queue: which renewals came when, and how they are answered."""

    renewed: list[tuple[float, list[tuple[str, str]]]] = attrs.field(factory=list)
    lost: set[str] = attrs.field(factory=set)
    errors: list[BaseException | None] = attrs.field(factory=list)
    seconds: float = 0.0
    keys: SimpleNamespace = attrs.field(factory=lambda: SimpleNamespace(name="q"))

    async def renew(self, owners: Sequence[tuple[str, str]]) -> frozenset[str]:
        self.renewed.append((anyio.current_time(), list(owners)))
        await anyio.sleep(self.seconds)
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        return frozenset(self.lost)

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.renewed]


@pytest.fixture
def queue() -> LockQueue:
    return LockQueue()


@pytest.fixture
async def keeper(queue: LockQueue) -> AsyncIterator[Keeper]:
    async with task_group() as tasks:
        running = Keeper(queue, RENEW_TIME)  # type: ignore[arg-type]  # stands for the queue
        tasks.start_soon(running.run)
        # The keeper's ticks begin at 0.
        await anyio.wait_all_tasks_blocked()
        yield running


async def test_all_that_is_due_is_renewed_in_one_call(
    autojump_clock: object, keeper: Keeper, queue: LockQueue
) -> None:
    for number in range(3):
        keeper.hold(str(number), f"t:{number}", new_scope(), anyio.current_time())
    await anyio.sleep(TICK + 1)
    assert queue.renewed == [(TICK, [("0", "t:0"), ("1", "t:1"), ("2", "t:2")])]


async def test_nothing_is_called_while_nothing_is_held(
    autojump_clock: object, keeper: Keeper, queue: LockQueue
) -> None:
    await anyio.sleep(100)
    assert queue.renewed == []


async def test_every_lock_is_renewed_before_its_renew_time_is_over(
    autojump_clock: object, keeper: Keeper, queue: LockQueue
) -> None:
    held_at = {}
    for number in range(20):
        held_at[str(number)] = anyio.current_time()
        keeper.hold(str(number), "t", new_scope(), anyio.current_time())
        await anyio.sleep(1.3)
    await anyio.sleep(100)
    for job, began in held_at.items():
        times = [began, *(at for at, owners in queue.renewed if (job, "t") in owners)]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert len(gaps) > 5
        assert max(gaps) <= RENEW_TIME.total_seconds()


async def test_a_job_that_was_claimed_a_moment_ago_is_not_due(
    autojump_clock: object, keeper: Keeper, queue: LockQueue
) -> None:
    keeper.hold("old", "t", new_scope(), anyio.current_time())
    await anyio.sleep(5)
    keeper.hold("new", "t", new_scope(), anyio.current_time())
    await anyio.sleep(5)
    assert queue.renewed == [(TICK, [("old", "t")])]


async def test_a_job_that_has_ended_is_not_renewed(
    autojump_clock: object, keeper: Keeper, queue: LockQueue
) -> None:
    keeper.hold("1", "t", new_scope(), anyio.current_time())
    assert len(keeper) == 1
    keeper.release("1", "t")
    assert (len(keeper), keeper.scopes) == (0, [])
    await anyio.sleep(20)
    assert queue.renewed == []


async def test_another_slots_hold_on_the_same_job_is_not_released(
    autojump_clock: object, keeper: Keeper, queue: LockQueue
) -> None:
    scope = new_scope()
    keeper.hold("1", "t:1", new_scope(), anyio.current_time())
    keeper.hold("1", "t:2", scope, anyio.current_time())
    keeper.release("1", "t:1")
    assert keeper.scopes == [scope]
    await anyio.sleep(10)
    assert queue.renewed[0][1] == [("1", "t:2")]


async def test_a_job_that_comes_to_another_slot_is_stopped_in_the_first(
    autojump_clock: object, keeper: Keeper
) -> None:
    # It stalled here, was put back and claimed again: nobody else would stop the first run.
    first, second = new_scope(), new_scope()
    keeper.hold("1", "t:1", first, anyio.current_time())
    with running(first):
        keeper.hold("1", "t:2", second, anyio.current_time())
        await anyio.sleep(60)
    assert (first.reason, second.reason) == (StopReason.LOCK_LOST, None)


async def test_a_lost_lock_stops_its_job_and_no_other(
    autojump_clock: object, keeper: Keeper, queue: LockQueue
) -> None:
    mine, other = new_scope(), new_scope()
    keeper.hold("1", "t:1", mine, anyio.current_time())
    keeper.hold("2", "t:2", other, anyio.current_time())
    queue.lost = {"1"}
    with capture_logs() as logs, running(mine):
        await anyio.sleep_forever()
    assert anyio.current_time() == TICK
    assert (mine.reason, other.reason) == (StopReason.LOCK_LOST, None)
    assert [(entry["job_id"], entry["queue"]) for entry in logs] == [("1", "q")]


async def test_a_job_that_ended_while_the_call_was_under_way_is_left_alone(
    autojump_clock: object, keeper: Keeper, queue: LockQueue
) -> None:
    # Its lock is gone since its finish let it go.
    before, after = new_scope(), new_scope()
    keeper.hold("1", "t:1", before, anyio.current_time())
    queue.lost, queue.seconds = {"1"}, 2.0
    await anyio.sleep(TICK + 1)
    keeper.release("1", "t:1")
    keeper.hold("1", "t:2", after, anyio.current_time())
    await anyio.sleep(2)
    assert (before.reason, after.reason) == (None, None)


@pytest.mark.parametrize(
    "error", [ReplyLost("lost"), RedisUnavailable("away"), ReplyError("LOADING"), None]
)
async def test_after_a_failure_the_next_attempt_comes_soon(
    autojump_clock: object, keeper: Keeper, queue: LockQueue, error: Exception | None
) -> None:
    keeper.hold("1", "t", new_scope(), anyio.current_time())
    if error is None:
        queue.seconds = 1000  # nothing at all: the keeper gives the call up itself
        first_end = TICK + TICK
    else:
        queue.errors = [error, error]
        first_end = TICK
    with capture_logs() as logs:
        await anyio.sleep(first_end + 0.2)
        queue.seconds = 0
        await anyio.sleep(0.1)
    assert queue.times[:2] == [TICK, first_end + 0.25]
    assert logs[0]["event"] == "locks not renewed; trying again"
    assert logs[0]["reason"]


async def test_a_slow_answer_delays_the_next_renewal_by_no_more_than_itself(
    autojump_clock: object, keeper: Keeper, queue: LockQueue
) -> None:
    keeper.hold("1", "t", new_scope(), anyio.current_time())
    queue.seconds = 5
    await anyio.sleep(40)
    assert queue.times == [TICK, TICK + 5 + TICK, TICK + 2 * (5 + TICK)]


async def test_a_failure_costs_no_job_its_scope(
    autojump_clock: object, keeper: Keeper, queue: LockQueue
) -> None:
    scope = new_scope()
    keeper.hold("1", "t", scope, anyio.current_time())
    queue.errors = [ReplyLost("lost")] * 20
    with capture_logs(), running(scope):
        await anyio.sleep(12)
    assert scope.reason is None


async def test_only_a_job_that_runs_here_is_cancelled(
    autojump_clock: object, keeper: Keeper
) -> None:
    mine, other = new_scope(), new_scope()
    keeper.hold("1", "t:1", mine, anyio.current_time())
    keeper.hold("2", "t:2", other, anyio.current_time())
    assert (keeper.cancel("1"), keeper.cancel("3")) == (True, False)
    assert (keeper.holds("1"), keeper.holds("3")) == (True, False)
    assert (mine.reason, other.reason) == (StopReason.CANCELLED, None)

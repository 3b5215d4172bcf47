"""Wishes to cancel jobs: remembered as a hint, asked for when it counts, reviewed now and then."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import anyio
import attrs
import pytest
from structlog.testing import capture_logs

from tests._runtime.support import task_group
from worker_core._bullmq.cancelling import CancelOutcome
from worker_core._bullmq.job import StoredJob
from worker_core._bullmq.keys import QueueKeys
from worker_core._runtime.cancels import Cancels
from worker_core._runtime.scope import RETURN_SECONDS
from worker_core.errors import RedisUnavailable, ReplyError, ReplyLost
from worker_core.job import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

JOB = StoredJob(id="7", timestamp_ms=1)
INTERVAL = 30.0


@attrs.define(eq=False)
class WishQueue:
    """Stands for the queue: the wishes in Redis, and how it answers."""

    keys: QueueKeys = QueueKeys("bull", "q")  # noqa: RUF009  # frozen
    standing: set[str] = attrs.field(factory=set)
    errors: deque[BaseException] = attrs.field(factory=deque)
    on_ask: Callable[[], None] | None = None
    """Called between the answer and its arrival."""
    asked_at: list[float] = attrs.field(factory=list)
    cancel_seconds: float = 0.0
    cancelled: list[str] = attrs.field(factory=list)
    forgotten: list[str] = attrs.field(factory=list)

    async def standing_wishes(self) -> frozenset[str]:
        self.asked_at.append(anyio.current_time())
        if self.errors:
            raise self.errors.popleft()
        answer = frozenset(self.standing)
        if self.on_ask is not None:
            self.on_ask()
        await anyio.sleep(0)
        return answer

    async def cancel_wished(self, job_id: str) -> CancelOutcome:
        await anyio.sleep(self.cancel_seconds)
        self.cancelled.append(job_id)
        self.standing.discard(job_id)
        return CancelOutcome.CANCELLED

    def post_end_cancel(self, job: StoredJob) -> None:
        self.forgotten.append(job.id)


@attrs.define(eq=False)
class FewJobs:
    """Stands for the keeper: which jobs run, and which were stopped."""

    running: set[str] = attrs.field(factory=set)
    stopped: list[str] = attrs.field(factory=list)

    def holds(self, job_id: str) -> bool:
        return job_id in self.running

    def cancel(self, job_id: str) -> bool:
        if job_id in self.running:
            self.stopped.append(job_id)
        return job_id in self.running


@attrs.frozen
class Bench:
    cancels: Cancels
    queue: WishQueue = attrs.field(factory=WishQueue)
    keeper: FewJobs = attrs.field(factory=FewJobs)


def bench() -> Bench:
    queue, keeper = WishQueue(), FewJobs()
    interval = timedelta(seconds=INTERVAL)
    return Bench(Cancels(cast("Any", queue), cast("Any", keeper), interval=interval), queue, keeper)


@pytest.fixture
async def reviewing() -> AsyncIterator[Bench]:
    """Wishes that are reviewed and heard, a while after the start."""
    one = bench()
    async with task_group() as tasks:
        tasks.start_soon(one.cancels.run)
        one.cancels.hears(all_of_them=True)
        await one.cancels.reviewed.wait()
        await anyio.sleep(INTERVAL / 3)
        one.queue.asked_at.clear()
        yield one


async def test_a_job_that_runs_is_stopped_when_the_wish_is_heard(
    autojump_clock: object, reviewing: Bench
) -> None:
    reviewing.keeper.running.add("7")
    reviewing.queue.standing.add("7")
    with capture_logs() as logs:
        for _ in range(2):
            reviewing.cancels.hear("7")
            await anyio.wait_all_tasks_blocked()
    # At once, however many others are reviewed.
    assert reviewing.keeper.stopped == ["7", "7"]
    assert [entry["event"] for entry in logs] == ["a running job is cancelled"]


async def test_a_job_that_runs_is_not_stopped_for_a_wish_that_is_over(
    autojump_clock: object, reviewing: Bench
) -> None:
    reviewing.keeper.running.add("7")
    reviewing.cancels.hear("7")
    await anyio.sleep(2 * INTERVAL)
    assert reviewing.keeper.stopped == []
    assert reviewing.cancels.wished == set()


@pytest.mark.parametrize("error", [RedisUnavailable("away"), ReplyLost("lost"), ReplyError("OOM")])
async def test_where_redis_does_not_say_a_job_that_runs_is_stopped_by_the_review(
    autojump_clock: object, reviewing: Bench, error: Exception
) -> None:
    reviewing.keeper.running.add("7")
    reviewing.queue.standing.add("7")
    reviewing.queue.errors.append(error)
    reviewing.cancels.hear("7")
    await anyio.sleep(1.5)
    assert reviewing.keeper.stopped == ["7"]


async def test_a_claimed_job_is_failed_only_where_the_wish_still_stands() -> None:
    one = bench()
    one.cancels.hear("7")
    assert not await one.cancels.confirms(JOB)
    one.queue.standing.add("7")
    assert await one.cancels.confirms(JOB)


async def test_a_lost_reply_is_no_answer_and_an_error_lets_the_job_run() -> None:
    one = bench()
    one.queue.standing.add("7")
    one.queue.errors.extend([ReplyLost("lost"), ReplyLost("lost")])
    assert await one.cancels.confirms(JOB)
    one.queue.errors.append(ReplyError("NOPERM no"))
    with capture_logs():
        assert not await one.cancels.confirms(JOB)


async def test_an_idle_worker_that_hears_asks_nothing(
    autojump_clock: object, reviewing: Bench
) -> None:
    await anyio.sleep(10 * INTERVAL)
    assert reviewing.queue.asked_at == []


async def test_one_that_does_not_hear_asks_in_each_interval(
    autojump_clock: object, reviewing: Bench
) -> None:
    reviewing.cancels.hears(all_of_them=False)
    began = anyio.current_time()
    await anyio.sleep(3 * INTERVAL + 5)
    assert len(reviewing.queue.asked_at) == 3
    # When it hears again, it looks at once for what was told meanwhile.
    reviewing.keeper.running.add("7")
    reviewing.queue.standing.add("7")
    reviewing.cancels.hears(all_of_them=True)
    await anyio.wait_all_tasks_blocked()
    assert reviewing.keeper.stopped == ["7"]
    assert reviewing.queue.asked_at[-1] == began + 3 * INTERVAL + 5


async def test_a_wish_that_is_over_is_forgotten_at_the_next_review(
    autojump_clock: object, reviewing: Bench
) -> None:
    reviewing.cancels.hear("7")
    assert reviewing.cancels.wished == {"7"}
    await anyio.sleep(2)
    assert reviewing.cancels.wished == set()
    await anyio.sleep(10 * INTERVAL)
    assert len(reviewing.queue.asked_at) == 1


async def test_what_is_heard_while_redis_is_asked_is_newer_than_the_answer(
    autojump_clock: object, reviewing: Bench
) -> None:
    reviewing.cancels.hear("7")
    reviewing.queue.on_ask = lambda: reviewing.cancels.hear("7")
    await anyio.sleep(1.5)
    assert reviewing.cancels.wished == {"7"}


async def test_many_wishes_for_others_jobs_are_reviewed_together(
    autojump_clock: object, reviewing: Bench
) -> None:
    for number in range(100):
        reviewing.cancels.hear(str(number))
        await anyio.sleep(0.02)
    await anyio.sleep(2)
    assert len(reviewing.queue.asked_at) <= 4


@pytest.mark.parametrize("outcome", Outcome)
async def test_whatever_becomes_of_the_run_the_wish_is_seen_to(
    autojump_clock: object, reviewing: Bench, outcome: Outcome
) -> None:
    reviewing.keeper.running.add("7")
    reviewing.queue.standing.add("7")
    reviewing.cancels.hear("7")
    reviewing.keeper.running.clear()
    reviewing.cancels.ended(JOB, outcome)
    final = outcome in {Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED}
    assert reviewing.queue.forgotten == (["7"] if final else [])
    await anyio.sleep(1.5)
    runs_again = not final and outcome is not Outcome.LOST
    assert reviewing.queue.cancelled == (["7"] if runs_again else [])


@pytest.mark.parametrize("error", [RedisUnavailable("away"), ReplyLost("lost"), ReplyError("OOM")])
async def test_a_review_that_fails_is_made_again_soon(
    autojump_clock: object, error: Exception
) -> None:
    one = bench()
    one.queue.errors.append(error)
    one.queue.standing.add("7")
    with capture_logs():
        async with task_group() as tasks:
            tasks.start_soon(one.cancels.run)
            # Nobody waits for it: the start does not depend on that.
            await one.cancels.reviewed.wait()
            one.cancels.hears(all_of_them=True)
            await anyio.sleep(1.5)
    assert one.queue.cancelled == ["7"]


@pytest.mark.parametrize("seconds", [1.0, 100.0])
async def test_a_worker_that_stops_leaves_no_job_half_cancelled(
    autojump_clock: object, seconds: float
) -> None:
    """But does not wait for ever, and begins with no other one."""
    one = bench()
    one.queue.cancel_seconds = seconds
    one.queue.standing.update({"7", "8", "9"})
    one.cancels.hears(all_of_them=True)
    with capture_logs():
        async with task_group() as tasks:
            tasks.start_soon(one.cancels.run)
            await anyio.wait_all_tasks_blocked()
            stopped_at = anyio.current_time()
    assert len(one.queue.cancelled) == (1 if seconds < RETURN_SECONDS else 0)
    assert anyio.current_time() - stopped_at <= RETURN_SECONDS

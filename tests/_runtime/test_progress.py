"""Progress: at most twice a second for each job, the newest value winning."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import anyio
import attrs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests._runtime.support import run_virtual, task_group
from worker_core._runtime.progress import ProgressReporter
from worker_core._runtime.pump import Pump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@attrs.define(eq=False)
class PostedTo:
    """Stands for the queue: what was posted, by job, and when."""

    posted: list[tuple[str, object, float]] = attrs.field(factory=list)

    def post_progress(self, job_id: str, progress: bytes) -> None:
        self.posted.append((job_id, orjson.loads(progress), anyio.current_time()))

    def values(self, job_id: str = "1") -> list[object]:
        return [value for job, value, _ in self.posted if job == job_id]

    def times(self, job_id: str = "1") -> list[float]:
        return [at for job, _, at in self.posted if job == job_id]


@pytest.fixture
async def pump() -> AsyncIterator[Pump]:
    async with task_group() as tasks:
        running = Pump()
        tasks.start_soon(running.run)
        yield running


@pytest.fixture
def queue() -> PostedTo:
    return PostedTo()


def reporter_of(pump: Pump, queue: PostedTo, job_id: str = "1") -> ProgressReporter:
    return ProgressReporter(pump, queue, job_id)  # type: ignore[arg-type]  # stands for the queue


async def test_the_first_value_goes_out_at_once(
    autojump_clock: object, pump: Pump, queue: PostedTo
) -> None:
    reporter_of(pump, queue).report({"done": 1})
    assert queue.values() == [{"done": 1}]


async def test_the_newest_of_many_values_goes_out_when_its_time_has_come(
    autojump_clock: object, pump: Pump, queue: PostedTo
) -> None:
    reporter = reporter_of(pump, queue)
    for number in range(10):
        reporter.report(number)
        await anyio.sleep(0.01)
    await anyio.sleep(5)
    assert queue.values() == [0, 9]
    assert queue.times() == [0, 0.5]


async def test_a_value_after_a_pause_goes_out_at_once(
    autojump_clock: object, pump: Pump, queue: PostedTo
) -> None:
    reporter = reporter_of(pump, queue)
    reporter.report(1)
    await anyio.sleep(3)
    reporter.report(2)
    assert queue.times() == [0, 3]


async def test_what_waits_at_the_end_of_the_job_is_dropped(
    autojump_clock: object, pump: Pump, queue: PostedTo
) -> None:
    reporter = reporter_of(pump, queue)
    reporter.report(1)
    reporter.report(2)
    reporter.close()
    await anyio.sleep(5)
    assert queue.values() == [1]


async def test_after_the_end_of_the_job_nothing_is_sent(
    autojump_clock: object, pump: Pump, queue: PostedTo
) -> None:
    # A task of the job type's own may outlive the job that it reports for.
    reporter = reporter_of(pump, queue)
    reporter.report(1)
    reporter.close()
    reporter.report(2)
    await anyio.sleep(5)
    reporter.report(3)
    await anyio.sleep(5)
    assert queue.values() == [1]


@pytest.mark.parametrize("value", [math.nan, {"a": [math.inf]}, object(), 2**64])
async def test_what_is_not_json_is_logged_and_dropped(
    autojump_clock: object, pump: Pump, queue: PostedTo, value: object
) -> None:
    reporter = reporter_of(pump, queue)
    with capture_logs() as logs:
        reporter.report(value)
    assert queue.posted == []
    assert [(entry["event"], entry["job_id"]) for entry in logs] == [("progress is not JSON", "1")]


async def test_what_is_not_json_does_not_stop_the_progress_of_others(
    autojump_clock: object, pump: Pump, queue: PostedTo
) -> None:
    bad, good = reporter_of(pump, queue), reporter_of(pump, queue, "2")
    bad.report(1)
    good.report(1)
    bad.report(math.nan)
    good.report(2)
    await anyio.sleep(1)
    bad.report(3)
    assert queue.values() == [1, 3]
    assert queue.values("2") == [1, 2]


async def test_half_an_emoji_is_sent_as_a_replacement(
    autojump_clock: object, pump: Pump, queue: PostedTo
) -> None:
    reporter_of(pump, queue).report({"text": "\ud83d"})
    assert queue.values() == [{"text": "�"}]


async def test_null_says_nothing_and_takes_nothing_away(
    autojump_clock: object, pump: Pump, queue: PostedTo
) -> None:
    reporter = reporter_of(pump, queue)
    reporter.report(None)
    reporter.report(1)
    reporter.report(2)
    reporter.report(None)
    await anyio.sleep(1)
    assert queue.values() == [1, 2]


async def test_false_and_nought_are_values(
    autojump_clock: object, pump: Pump, queue: PostedTo
) -> None:
    for number, value in enumerate((0, False, "", [])):
        reporter_of(pump, queue, str(number)).report(value)
    assert [value for _, value, _ in queue.posted] == [0, False, "", []]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 16).map(lambda ticks: ticks / 16)),
        min_size=1,
        max_size=40,
    )
)
def test_never_more_than_twice_a_second_and_the_last_value_always_arrives(
    reports: list[tuple[str, float]],
) -> None:
    async def run() -> PostedTo:
        queue = PostedTo()
        async with task_group() as tasks:
            pump = Pump()
            tasks.start_soon(pump.run)
            reporters = {job: reporter_of(pump, queue, job) for job in "ab"}
            for number, (job, pause) in enumerate(reports):
                reporters[job].report(number)
                await anyio.sleep(pause)
            await anyio.sleep(2)
        return queue

    queue = run_virtual(run)
    for job in {job for job, _ in reports}:
        times = queue.times(job)
        assert all(after - before >= 0.5 for before, after in itertools.pairwise(times))
        sent = queue.values(job)
        assert sent == sorted(sent)  # type: ignore[type-var]
        assert sent[-1] == max(n for n, (owner, _) in enumerate(reports) if owner == job)

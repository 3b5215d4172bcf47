"""What a running job sees of itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import anyio
import attrs
from structlog.testing import capture_logs

from tests._runtime.support import new_scope, running
from worker_core._bullmq.job import StoredJob
from worker_core._bullmq.keys import QueueKeys
from worker_core._runtime.context import Context, Surroundings, view_of
from worker_core._runtime.progress import ProgressPump
from worker_core._runtime.scope import JobScope

STORED = StoredJob(id="7", name="n", attempts_made=1, timestamp_ms=1_700_000_000_250)


@attrs.define(eq=False)
class JobQueue:
    """Stands for the queue: what a job publishes."""

    keys: QueueKeys = QueueKeys("bull", "q")  # noqa: RUF009  # frozen
    lines: list[str] = attrs.field(factory=list)
    published: list[bytes] = attrs.field(factory=list)

    def post_log(self, job: StoredJob, line: str) -> None:
        self.lines.append(line)

    def post_progress(self, job_id: str, progress: bytes) -> None:
        self.published.append(progress)


class SureKeeper:
    def is_sure_of(self, job_id: str) -> bool:
        return True


def context_in(scope: JobScope, queue: JobQueue | None = None) -> Context:
    nothing: Any = None
    around = Surroundings(
        job_type="chat",
        express=False,
        queue=cast("Any", queue or JobQueue()),
        keeper=cast("Any", SureKeeper()),
        redis=nothing,
        admission=None,
        pump=ProgressPump(),
        notify=None,
    )
    return Context(around, STORED, scope, anyio.current_time())


async def test_a_note_goes_into_the_jobs_own_log() -> None:
    queue = JobQueue()
    context_in(new_scope(), queue).note("half way")
    assert queue.lines == ["half way"]


async def test_the_time_left_is_that_of_the_jobs_own_clock(autojump_clock: object) -> None:
    scope = new_scope()
    context = context_in(scope)
    with running(scope):
        assert context.time_left is None
        scope.limit(10)
        await anyio.sleep(4)
        assert context.time_left == timedelta(seconds=6)
        with scope.paused():
            await anyio.sleep(100)
            assert context.time_left == timedelta(seconds=6)


async def test_what_a_job_logs_is_bound_to_it() -> None:
    context = context_in(new_scope())
    with capture_logs() as logs:
        context.log.info("hello", more=1)
    assert logs == [
        {
            "event": "hello",
            "more": 1,
            "log_level": "info",
            "job_id": "7",
            "queue": "q",
            "job_type": "chat",
            "attempt": 2,
        }
    ]


async def test_progress_and_warnings_go_where_they_belong() -> None:
    queue = JobQueue()
    context = context_in(new_scope(), queue)
    context.progress({"done": 1})
    context.warn("careful")
    assert queue.published == [b'{"done":1}']
    assert context.warnings == ["careful"]


async def test_a_job_that_has_ended_publishes_no_more(autojump_clock: object) -> None:
    before, after = JobQueue(), JobQueue()
    reported, silent = context_in(new_scope(), before), context_in(new_scope(), after)
    reported.progress(1)
    for context in (reported, silent):
        context.end()
        context.progress(2)
    assert (before.published, after.published) == ([b"1"], [])


async def test_a_job_knows_when_it_was_added() -> None:
    assert context_in(new_scope()).job.created_at.isoformat() == "2023-11-14T22:13:20.250000+00:00"


async def test_children_are_made_when_they_are_asked_for_and_once() -> None:
    context = context_in(new_scope())
    assert context._children is None
    assert context.children is context.children


def test_a_job_shows_its_telemetry() -> None:
    stored = attrs.evolve(STORED, raw_options=b'{"tm":"trace"}')
    assert view_of(stored, queue="q", job_type="t").telemetry == "trace"

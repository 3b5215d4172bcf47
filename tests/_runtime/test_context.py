"""What a running job sees of itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import anyio
from structlog.testing import capture_logs

from worker_core._runtime.context import Context
from worker_core._runtime.engine_calls import NoEngine
from worker_core._runtime.scope import JobScope
from worker_core.job import Job

JOB = Job(
    id="7",
    queue="q",
    name="n",
    type="chat",
    attempt=2,
    max_attempts=3,
    priority=0,
    created_ms=1_700_000_000_250,
)


class Reported:
    def __init__(self) -> None:
        self.values: list[object] = []

    def report(self, value: object) -> None:
        self.values.append(value)


def context_in(
    scope: JobScope, reporter: Reported | None = None, lines: list[str] | None = None
) -> Context:
    return Context(
        job=JOB,
        engine=NoEngine(),
        redis=cast("Any", None),
        scope=scope,
        reporter=cast("Any", reporter or Reported()),
        log_line=(lines if lines is not None else []).append,
    )


async def test_a_note_goes_into_the_jobs_own_log() -> None:
    lines: list[str] = []
    context_in(JobScope(), lines=lines).note("half way")
    assert lines == ["half way"]


async def test_the_time_left_is_that_of_the_jobs_own_clock(autojump_clock: object) -> None:
    scope = JobScope()
    context = context_in(scope)
    with scope.running():
        assert context.time_left is None
        scope.limit(10)
        await anyio.sleep(4)
        assert context.time_left == timedelta(seconds=6)
        with scope.paused():
            await anyio.sleep(100)
            assert context.time_left == timedelta(seconds=6)


async def test_what_a_job_logs_is_bound_to_it() -> None:
    context = context_in(JobScope())
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
    reporter = Reported()
    context = context_in(JobScope(), reporter)
    context.progress({"done": 1})
    context.warn("careful")
    assert reporter.values == [{"done": 1}]
    assert context.warnings == ["careful"]


def test_a_job_knows_when_it_was_added() -> None:
    assert JOB.created_at.isoformat() == "2023-11-14T22:13:20.250000+00:00"

"""What a running job sees of itself."""

from __future__ import annotations

import math
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import anyio
import attrs
import orjson
import pytest
from structlog.testing import capture_logs

from tests._runtime.support import new_scope, running
from worker_core._bullmq.job import StoredJob
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.streams import Place
from worker_core._runtime.context import Context, Surroundings, view_of
from worker_core._runtime.pump import Pump
from worker_core._runtime.scope import JobScope
from worker_core.engine import ChatChunk
from worker_core.job import Outcome

STORED = StoredJob(id="7", name="n", attempts_made=1, timestamp_ms=1_700_000_000_250)


@attrs.define(eq=False)
class JobQueue:
    """Stands for the queue: what a job publishes."""

    keys: QueueKeys = QueueKeys("bull", "q")  # noqa: RUF009  # frozen
    lines: list[str] = attrs.field(factory=list)
    published: list[bytes] = attrs.field(factory=list)
    entries: list[tuple[Place, dict[str, Any]]] = attrs.field(factory=list)

    def post_log(self, job: StoredJob, line: str) -> None:
        self.lines.append(line)

    @property
    def link(self) -> Any:
        return SimpleNamespace(is_connected=True)

    def post_entry(
        self, job_id: str, token: str, data: bytes, *, place: Place, ttl: timedelta
    ) -> None:
        assert (job_id, token, ttl) == ("7", "token", timedelta(hours=1))
        self.entries.append((place, orjson.loads(data)))

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
        inner=nothing,
        pump=Pump(),
        stream_ttl=timedelta(hours=1),
        notify=None,
    )
    return Context(around, STORED, scope, anyio.current_time(), "token")


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


async def test_the_first_piece_begins_the_stream_also_an_empty_one() -> None:
    queue = JobQueue()
    context = context_in(new_scope(), queue)
    context.emit("")
    assert queue.entries == [(Place.FRESH, {"event": "begin", "index": 0, "attempt": 2})]
    context.emit(ChatChunk("a", "hm", ({"name": "f"},)))
    [_, (place, entry)] = queue.entries
    assert place is Place.APPEND
    assert entry == {
        "event": "chunk",
        "index": 1,
        "content": "a",
        "thinking": "hm",
        "tool_calls": [{"name": "f"}],
    }


async def test_what_waits_goes_before_the_end_and_nothing_comes_behind_it() -> None:
    queue = JobQueue()
    context = context_in(new_scope(), queue)
    for piece in ("a", "b", "c"):
        context.emit(piece)
    context.end()
    context.emit("too late")
    context.announce(Outcome.FAILED, b"bang")
    assert [entry for _, entry in queue.entries[1:]] == [
        {"event": "chunk", "index": 1, "content": "a"},
        {"event": "chunk", "index": 2, "content": "bc"},
        {"event": "end", "index": 3, "outcome": "failed", "reason": "bang"},
    ]


async def test_an_answer_that_begins_anew_drops_what_waits_and_says_so() -> None:
    queue = JobQueue()
    context = context_in(new_scope(), queue)
    context.emit("first")
    context.emit("never sent")
    context.emit(ChatChunk(restart=True))
    context.emit("second")
    context.end()
    context.emit(ChatChunk(restart=True))
    context.announce(Outcome.COMPLETED, None)
    told = [(e["event"], e["index"], e.get("content")) for _, e in queue.entries]
    assert told == [
        ("begin", 0, None),
        ("chunk", 1, "first"),
        ("begin", 2, None),
        ("chunk", 3, "second"),
        ("end", 4, None),
    ]
    # Behind what is there: a fresh stream would leave its readers behind.
    assert queue.entries[2][0] is Place.APPEND
    assert queue.entries[2][1]["attempt"] == 2


async def test_a_job_that_puts_nothing_out_writes_no_stream() -> None:
    queue = JobQueue()
    context = context_in(new_scope(), queue)
    context.end()
    context.announce(Outcome.COMPLETED, None)
    # Nor does one of a first run that was never run.
    context_in(new_scope(), queue).announce(Outcome.FAILED, b"bad data")
    assert queue.entries == []


async def test_a_tool_call_that_is_not_json_takes_no_words_along() -> None:
    queue = JobQueue()
    with capture_logs() as logs:
        context_in(new_scope(), queue).emit(ChatChunk("a", tool_calls=(cast("Any", math.nan),)))
    assert queue.entries[-1][1] == {"event": "chunk", "index": 1, "content": "a"}
    assert [entry["event"] for entry in logs] == ["a tool call is not JSON"]


@pytest.mark.parametrize("outcome", Outcome)
async def test_only_what_ends_the_job_ends_its_stream(outcome: Outcome) -> None:
    queue = JobQueue()
    context = context_in(new_scope(), queue)
    context.emit("a")
    context.announce(outcome, None)
    goes_on = {"retried", "delayed", "waiting_children", "rate_limited", "returned"}
    event = "stop" if outcome.value in goes_on else "end"
    assert queue.entries[-1][1] == {"event": event, "index": 2, "outcome": outcome.value}


async def test_a_job_knows_when_it_was_added() -> None:
    assert context_in(new_scope()).job.created_at.isoformat() == "2023-11-14T22:13:20.250000+00:00"


async def test_children_are_made_when_they_are_asked_for_and_once() -> None:
    context = context_in(new_scope())
    assert context._children is None
    assert context.children is context.children


def test_a_job_shows_its_telemetry() -> None:
    stored = attrs.evolve(STORED, raw_options=b'{"tm":"trace"}')
    assert view_of(stored, queue="q", job_type="t").telemetry == "trace"

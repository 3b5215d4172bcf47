"""A scheduler is moved on before its job runs, and never keeps that job from running."""

from __future__ import annotations

import math
from typing import Any, cast

import anyio
import attrs
import pytest
from structlog.testing import capture_logs

from worker_core._bullmq.calls import ScriptCall
from worker_core._bullmq.job import StoredJob
from worker_core._bullmq.keys import QueueKeys
from worker_core._runtime.schedules import advance_scheduler
from worker_core.errors import RedisUnavailable, ReplyError, ReplyLost


@attrs.define(eq=False)
class AnsweringQueue:
    """Stands for the queue: answers each call as it is told."""

    answers: list[object]
    keys: QueueKeys = QueueKeys("bull", "q")  # noqa: RUF009  # frozen
    calls: list[ScriptCall] = attrs.field(factory=list)

    async def run(self, call: ScriptCall) -> object:
        self.calls.append(call)
        await anyio.sleep(0)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer is math.inf:
            await anyio.sleep_forever()
        return answer


async def advance(
    queue: AnsweringQueue, options: bytes = b'{"repeat":{"every":5000}}'
) -> list[Any]:
    job = StoredJob(id="repeat:tick:1", scheduler_id="tick", raw_options=options)
    with capture_logs() as logs:
        await advance_scheduler(cast("Any", queue), job, within=30)
    return list(logs)


async def test_a_call_whose_reply_is_lost_is_made_again_as_it_was() -> None:
    queue = AnsweringQueue([ReplyLost("lost"), ReplyLost("lost"), b"repeat:tick:5001"])
    assert await advance(queue) == []
    assert len(queue.calls) == 3
    assert len({id(call) for call in queue.calls}) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ReplyError("ERR user_script:1: nil"), "nil"),
        (RedisUnavailable("no connection"), "no connection"),
        (math.inf, "no reply in time"),
    ],
)
async def test_a_queue_that_does_not_take_it_is_warned_of(
    autojump_clock: object, answer: object, said: str
) -> None:
    [warning] = await advance(AnsweringQueue([answer]))
    assert (warning["log_level"], warning["queue"], warning["scheduler"]) == (
        "warning",
        "q",
        "tick",
    )
    assert said in warning["reason"]
    assert anyio.current_time() <= 31


async def test_a_schedule_that_cannot_be_read_is_warned_of_and_no_call_is_made() -> None:
    queue = AnsweringQueue([])
    [warning] = await advance(queue, b'{"repeat":{"pattern":"never"}}')
    assert "no cron pattern: 'never'" in warning["reason"]
    assert queue.calls == []


async def test_a_schedule_at_its_end_is_nothing_to_warn_of() -> None:
    queue = AnsweringQueue([])
    assert await advance(queue, b'{"repeat":{"every":5000,"limit":1,"count":1}}') == []

"""Looking at a batch's requests: faults by item, in pieces that let others come to their turn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import pytest
from worker_core_batch.sources import InlineRequests
from worker_core_batch.validation import validate

from worker_core import Fault, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker_core import JSON


class Types:
    """Job types that refuse a body that is not an object, and take their time."""

    names: Sequence[str] = ("chat", "embeddings")

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def check(self, job_type: str, data: object) -> None:
        until = time.perf_counter() + self._seconds
        while time.perf_counter() < until:
            pass
        if not isinstance(data, dict):
            raise InvalidRequest([Fault("", "expected an object"), Fault("[0].x", "deep")])

    def slots(self, job_type: str) -> int:
        raise NotImplementedError


def item(custom_id: JSON, job_type: JSON = "chat", body: JSON = None) -> JSON:
    return {"custom_id": custom_id, "type": job_type, "body": {} if body is None else body}


async def faults_of(*requests: JSON) -> list[str]:
    try:
        await validate(InlineRequests(list(requests)), Types(), may_go_on=lambda: True)
    except InvalidRequest as error:
        return [str(fault) for fault in error.faults]
    return []


async def test_good_requests_have_no_faults() -> None:
    assert await faults_of(item("a"), item("b", "embeddings")) == []


async def test_faults_are_named_by_item() -> None:
    assert await faults_of(
        item("a"),
        item("a"),
        item(""),
        item("b", "batch"),
        item("c", body=5),
        item(7, None),
        "x",
    ) == [
        "requests[1].custom_id: is that of requests[0] too: 'a'",
        "requests[2].custom_id: must not be empty",
        "requests[3].type: no job type 'batch' may run in a batch; there are: chat, embeddings",
        "requests[4].body: expected an object",
        "requests[4].body[0].x: deep",
        "requests[5].custom_id: expected text, found a number",
        "requests[5].type: expected text, found null",
        "requests[6]: expected an object, found text",
    ]


async def test_a_hundred_faults_are_named_and_the_rest_is_counted() -> None:
    faults = await faults_of(*[item("")] * 170)
    assert len(faults) == 101
    assert faults[-1] == "and 70 more"


async def test_others_come_to_their_turn_meanwhile() -> None:
    longest, turns = 0.0, 0

    async def watch() -> None:
        nonlocal longest, turns
        while True:
            began = time.perf_counter()
            await anyio.lowlevel.checkpoint()
            longest = max(longest, time.perf_counter() - began)
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        requests = [item(str(number)) for number in range(1000)]
        await validate(InlineRequests(requests), Types(0.0005), may_go_on=lambda: True)
        tasks.cancel_scope.cancel()
    # Half a second of work in all; bounds for a machine that does other things too.
    assert turns > 90
    assert longest < 0.1


@pytest.mark.parametrize("pages", [1, 3])
async def test_it_ends_at_a_page_where_it_may_not_go_on(pages: int) -> None:
    asked = 0

    def may_go_on() -> bool:
        nonlocal asked
        asked += 1
        return asked < pages

    requests = [item("same") for _ in range(1000)]
    assert not await validate(InlineRequests(requests), Types(), may_go_on=may_go_on)
    assert asked == pages

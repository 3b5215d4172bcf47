"""Jobs that stand in for each other."""

from __future__ import annotations

import anyio

from tests.conformance.reference import peer
from tests.conformance.support import processor
from tests.integration.support import PROBE, running


@peer("deduplication keep-last requeues only after retries")
async def test_the_last_duplicate_runs_when_the_first_has_failed_for_good(valkey, node):
    """While the first runs, its duplicates are kept back; each failed attempt must keep them there."""
    ran, began, go_on = [], anyio.Event(), anyio.Event()

    async def first_fails(request, context):
        ran.append((request.n, context.job.attempt))
        if request.n == 1:
            began.set()
            await go_on.wait()
            raise RuntimeError("each time")

    same = {"deduplication": {"id": "same", "keepLastIfActive": True}}
    events = await node.listen(PROBE)
    async with running(valkey.url, processor(first_fails)):
        first = await node.add_one(
            PROBE, {"n": 1}, **same, attempts=3, backoff={"type": "fixed", "delay": 50}
        )
        await began.wait()
        for n in (2, 3):
            await node.add_one(PROBE, {"n": n}, **same)
        go_on.set()
        await events.wait_for("retries-exhausted", first)
        await events.wait_for("completed")
    assert ran == [(1, 1), (1, 2), (1, 3), (3, 1)]

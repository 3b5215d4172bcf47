"""What Node's QueueEvents hears, and what the stream of events costs."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance.reference import peer, symptom
from tests.conformance.support import BASE, calls_of, count_in, processor, put_together
from tests.integration.support import PROBE, probe, running
from worker_core.testing.polling import eventually_async


@peer("drained emitted once")
async def test_an_idle_worker_says_once_that_the_queue_is_drained(valkey, node):
    client = valkey.client
    events = await node.listen(PROBE)
    settings = {"worker": {"concurrency": 1}, "queue": {"drain_delay": "200ms"}}
    async with running(valkey.url, probe(), settings):
        for drained in (1, 2):
            await node.add(PROBE, *[{"data": {"seconds": 0.025}}] * 2)
            await events.wait_for("drained", count=drained)
            # It asks in vain a few times meanwhile.
            asked = calls_of(client, "bzpopmin")
            await eventually_async(lambda asked=asked: calls_of(client, "bzpopmin") > asked + 3)
            assert len(events.of("drained")) == drained
    assert count_in(client, "completed") == 4


@peer("returnvalue deserialised")
async def test_a_listener_is_given_the_return_value_as_an_object(valkey, node):
    """Ours is an envelope, the same for every job type: what the job type returned is `answer`."""

    async def answer(request, context):
        return {"result": 42, "text": "häß\u2028lich"}

    events = await node.listen(PROBE)
    async with running(valkey.url, processor(answer)):
        job_id = await node.add_one(PROBE)
        completed = await events.wait_for("completed", job_id)
    assert completed["returnvalue"]["answer"] == {"result": 42, "text": "häß\u2028lich"}
    assert completed["prev"] == "active"
    assert (await node.job(PROBE, job_id))["returnvalue"] == completed["returnvalue"]


@peer("retries trim the stream")
@pytest.mark.parametrize("backoff", [0, 60_000])
async def test_retries_keep_the_stream_at_its_length(valkey, node, backoff):
    client, jobs, kept = valkey.client, 120, 20

    async def fails_once(request, context):
        # No job ends or is added while others run, for that trims the stream as well.
        if context.job.attempt > 1:
            await anyio.sleep_forever()
        raise RuntimeError("once")

    limited = {"streams": {"events": {"maxLen": kept}}}
    async with running(valkey.url, processor(fails_once)):
        await node.call(PROBE, "pause", options=limited)
        again = {"opts": {"attempts": 2, "backoff": backoff}}
        ids = await node.add(PROBE, *[again] * jobs)
        await node.call(PROBE, "resume")
        await eventually_async(
            lambda: all(client.hget(f"{BASE}:{job_id}", "atm") for job_id in ids)
        )
        # The server trims whole nodes of its own (100 entries), never under the length.
        assert kept <= client.xlen(f"{BASE}:events") < kept + 100 + 20


@symptom("missed completed events")
async def test_one_listener_hears_of_every_job_of_many_workers(valkey, node):
    jobs = 1500
    events = await node.listen(PROBE)
    many = {"worker": {"concurrency": 25}}
    async with (
        running(valkey.url, probe(), many),
        running(valkey.url, probe(), many),
        running(valkey.url, probe(), many),
        running(valkey.url, probe(), many),
    ):
        put_together(valkey.client, jobs, {})
        await events.wait_for("completed", count=jobs, within=30)
    heard = [line["jobId"] for line in events.of("completed")]
    assert len(set(heard)) == len(heard) == jobs
    assert events.of("error") == []


@symptom("memory grows despite removeOnComplete")
async def test_what_removed_jobs_leave_behind_is_bounded(valkey, node):
    """Their keys go; the stream keeps a copy of each return value, up to its length."""
    client, jobs, kept, size = valkey.client, 1000, 50, 20_000

    async def answer(request, context):
        return "x" * size

    limited = {"streams": {"events": {"maxLen": kept}}}
    async with running(valkey.url, processor(answer), {"worker": {"concurrency": 10}}):
        listed = [{"data": {}, "opts": {"removeOnComplete": True}}] * jobs
        await node.add(PROBE, *listed, options=limited)
        await eventually_async(lambda: client.hget(f"{BASE}:meta", "opts.maxLenEvents"))
        await eventually_async(
            lambda: not client.exists(f"{BASE}:wait", f"{BASE}:active"), within=30
        )
    assert list(client.scan_iter(f"{BASE}:[0-9]*")) == []
    # A return value more or less: the server trims whole nodes of its own.
    assert client.memory_usage(f"{BASE}:events", samples=0) < 2 * kept * size


@symptom("memory grows despite removeOnComplete")
async def test_large_results_are_not_copied_into_the_stream(valkey, node):
    """They have keys of their own, which go with time; the stream holds pointers to them."""
    client, jobs, size = valkey.client, 200, 20_000

    async def answer(request, context):
        return "x" * size

    settings = {"results": {"inline_limit": 2000, "ttl": "2s"}}
    async with running(valkey.url, processor(answer), settings):
        await node.add(PROBE, *[{"data": {}, "opts": {"removeOnComplete": True}}] * jobs)
        await eventually_async(
            lambda: not client.exists(f"{BASE}:wait", f"{BASE}:active"), within=30
        )
    assert client.memory_usage(f"{BASE}:events", samples=0) < jobs * size / 10
    await eventually_async(lambda: list(client.scan_iter(f"{BASE}:[0-9]*")) == [], within=6)

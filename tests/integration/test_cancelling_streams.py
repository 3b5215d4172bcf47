"""What the readers of a token stream are told when their job is cancelled while it waits."""

from __future__ import annotations

import json

import anyio
import pytest

from tests.integration.stream_support import (
    SOON,
    TALK,
    end_of,
    entries,
    events,
    gather,
    kinds_of,
    talk,
)
from tests.integration.support import put, running, state_of
from tests.integration.test_cancelling import carry
from worker_core import Outcome
from worker_core._bullmq.calls import ClaimOptions
from worker_core._bullmq.cancelling import cancel_job
from worker_core._bullmq.keys import QueueKeys
from worker_core.client import Backoff, CancelOutcome, JobRef, SyncClient, open_client
from worker_core.testing.polling import eventually_async

KEYS = QueueKeys("bull", TALK)
HOUR_MS = 3_600_000
CANCELLED = CancelOutcome.CANCELLED
END = {"event": "end", "index": 0, "outcome": "cancelled", "reason": "cancelled"}


async def failed_once(valkey, **options):
    """A job that has streamed and failed, and waits for its second attempt."""
    async with running(valkey.url, talk()):
        data = {"pieces": ["a", "b"], "fault": "no"}
        job_id = put(
            valkey.client, TALK, data, attempts=2, backoff=Backoff("fixed", HOUR_MS), **options
        )
        await eventually_async(lambda: state_of(valkey.client, job_id, TALK) == "delayed")
    assert events(valkey.client, job_id)[-1] == "stop"
    return job_id


async def test_readers_of_an_earlier_attempt_are_told_the_end(valkey):
    job_id = await failed_once(valkey)
    redis, key = valkey.client, KEYS.tokens(job_id)
    redis.pexpire(key, 50_000)
    last, read = redis.xrevrange(key, count=1)[0][0], []

    def follow():
        read.extend(redis.xread({key: last}, block=10_000))

    with SyncClient(valkey.url) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, follow)
            await eventually_async(lambda: any("b" in c["flags"] for c in redis.client_list()))
            assert client.cancel(JobRef(job_id, TALK)) is CANCELLED
    [[_, [(_, fields)]]] = read
    assert json.loads(fields[b"data"]) == END
    # It is kept as long as before: how long its worker would keep it is not known here.
    assert 0 < redis.pttl(key) <= 50_000
    async with open_client(valkey.url) as client:
        items = await gather(client.tokens(JobRef(job_id, TALK)))
    assert kinds_of(items) == ["chunk", "stop", "end"]
    assert (end_of(items).outcome, end_of(items).id is None) == (Outcome.CANCELLED, False)


async def test_a_job_that_is_not_kept_ends_its_stream_too(valkey):
    job_id = await failed_once(valkey, keep_failed=0)
    with SyncClient(valkey.url) as client:
        assert client.cancel(JobRef(job_id, TALK)) is CANCELLED
    assert not valkey.client.exists(KEYS.job(job_id))
    assert entries(valkey.client, job_id)[-1][1] == END


async def test_a_wish_that_a_worker_sees_to_ends_the_stream_too(valkey):
    job_id = await failed_once(valkey)
    valkey.client.hset(KEYS.wishes, job_id, valkey.client.hget(KEYS.job(job_id), "timestamp"))
    async with running(valkey.url, talk()):
        await eventually_async(lambda: state_of(valkey.client, job_id, TALK) == "failed")
    assert entries(valkey.client, job_id)[-1][1] == END


@pytest.mark.parametrize("stream_of_another", [False, True])
def test_a_job_that_never_ran_has_no_stream_to_end(valkey, stream_of_another):
    job_id = put(valkey.client, TALK, {}, job_id="mine")
    if stream_of_another:
        valkey.client.xadd(KEYS.tokens(job_id), {"data": '{"event": "begin"}'})
    with SyncClient(valkey.url) as client:
        assert client.cancel(JobRef(job_id, TALK)) is CANCELLED
    assert events(valkey.client, job_id) == ["begin"] * stream_of_another


async def test_without_a_stream_a_cancelled_job_is_said_to_be_cancelled(valkey):
    job_id = put(valkey.client, TALK, {})
    async with open_client(valkey.url) as client:
        assert await client.cancel(JobRef(job_id, TALK)) is CANCELLED
        [end] = await gather(client.tokens(JobRef(job_id, TALK), timeout=SOON))
    assert (end.id, end.outcome, end.reason) == (None, Outcome.CANCELLED, "cancelled")


async def test_an_end_is_written_once_though_every_reply_is_lost(valkey):
    job_id = await failed_once(valkey)
    flow = cancel_job(KEYS, job_id, ClaimOptions(worker="c", lock_ms=60_000))
    with pytest.raises(StopIteration, match="CANCELLED"):
        reply = None
        while True:
            call = flow.send(reply)
            reply = [carry(valkey.client, call) for _ in range(2)][-1]
    assert events(valkey.client, job_id)[-2:] == ["stop", "end"]

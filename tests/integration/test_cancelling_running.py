"""Cancelling jobs that a worker runs, is about to run, or writes the outcome of."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from functools import partial

import anyio
import pytest

from tests.chaos.gate import run_gate
from tests.conformance.support import processor
from tests.integration.support import (
    CHAT,
    PROBE,
    Ledger,
    chat,
    fields_of,
    locks,
    probe,
    put,
    running,
    state_of,
)
from worker_core import BackoffStrategy, Outcome
from worker_core._bullmq.keys import QueueKeys
from worker_core.client import (
    Backoff,
    CancelOutcome,
    JobRef,
    ResultTimeout,
    SyncClient,
    open_client,
)
from worker_core.testing.fake_engine import RequestOutcome
from worker_core.testing.polling import eventually_async
from worker_core.testing.proxy import open_chaos_proxy

KEYS = QueueKeys("bull", PROBE)
WISHES = KEYS.wishes
CANCELLED, REQUESTED = CancelOutcome.CANCELLED, CancelOutcome.REQUESTED
SOON = timedelta(seconds=10)
QUICK = {"queue": {"stalled_interval": "200ms"}}


def ref(job_id, queue=PROBE):
    return JobRef(job_id, queue)


async def test_a_running_job_is_stopped_and_fails_without_another_attempt(valkey):
    redis, ledger = valkey.client, Ledger()
    job_id = put(redis, PROBE, {"do": "hang"}, attempts=5)
    async with running(valkey.url, probe(ledger)), open_client(valkey.url) as client:
        await eventually_async(lambda: ledger.began)
        assert await client.cancel(ref(job_id)) is REQUESTED
        await eventually_async(lambda: ledger.outcomes == [(job_id, Outcome.CANCELLED)])
        await eventually_async(lambda: not redis.exists(WISHES))
        assert await client.cancel(ref(job_id)) is CancelOutcome.FINISHED
    fields = fields_of(redis, job_id)
    assert (state_of(redis, job_id), fields["failedReason"]) == ("failed", "cancelled")
    assert (fields["atm"], ledger.cancelled, locks(redis)) == ("1", [job_id], [])


async def test_the_end_may_be_awaited(valkey):
    put(valkey.client, PROBE, {"do": "hang"})
    slow = put(valkey.client, PROBE, {"do": "ignore", "seconds": 0.5})
    async with running(valkey.url, probe()), open_client(valkey.url) as client:
        await eventually_async(lambda: state_of(valkey.client, slow) == "active")
        with pytest.raises(ResultTimeout):
            await client.cancel(ref(slow), wait=timedelta(milliseconds=50))
        assert await client.cancel(ref(slow), wait=SOON) is CANCELLED
        with SyncClient(valkey.url) as other:
            assert (
                await anyio.to_thread.run_sync(partial(other.cancel, ref("1"), wait=SOON))
                is CANCELLED
            )


async def test_it_is_counted_as_cancelled(valkey):
    job_id = put(valkey.client, PROBE, {"do": "hang"})
    async with running(valkey.url, probe()) as one, open_client(valkey.url) as client:
        await eventually_async(lambda: state_of(valkey.client, job_id) == "active")
        assert await client.cancel(ref(job_id), wait=SOON) is CANCELLED
        await eventually_async(lambda: b'status="cancelled"' in one.worker.metrics.text())


async def test_every_worker_is_told_and_only_the_one_that_has_the_job_acts(valkey):
    redis, one, other = valkey.client, Ledger(), Ledger()
    slots = {"worker": {"concurrency": 1}}
    async with (
        running(valkey.url, probe(one), slots),
        running(valkey.url, probe(other), slots),
        open_client(valkey.url) as client,
    ):
        first, second = put(redis, PROBE, {"do": "hang"}), put(redis, PROBE, {"do": "hang"})
        await eventually_async(lambda: one.began and other.began)
        await client.cancel(ref(first), wait=SOON)
        await eventually_async(
            lambda: one.outcomes + other.outcomes == [(first, Outcome.CANCELLED)]
        )
        assert state_of(redis, second) == "active"


async def test_a_wish_between_claim_and_start_is_not_lost(valkey):
    """Told before the worker has heard that the job is its own."""
    redis, ledger = valkey.client, Ledger()
    async with anyio.create_task_group() as tasks:
        gate = await tasks.start(run_gate, valkey.server.port)
        async with running(gate.url, probe(ledger)), open_client(valkey.url) as client:
            await eventually_async(lambda: gate.calls["moveToActive"] >= 1)
            gate.hold("moveToActive")
            job_id = put(redis, PROBE, {})
            await eventually_async(lambda: state_of(redis, job_id) == "active")
            assert await client.cancel(ref(job_id)) is REQUESTED
            await anyio.sleep(0.1)  # the message is on its way, and no sign tells of its arrival
            gate.release()
            await eventually_async(lambda: ledger.outcomes == [(job_id, Outcome.CANCELLED)])
        tasks.cancel_scope.cancel()
    assert ledger.began == []
    assert (fields_of(redis, job_id)["failedReason"], redis.exists(WISHES)) == ("cancelled", 0)


def listens(redis):
    """Whether a worker hears wishes; its connection has no name, for dashboards count by it."""
    found = [one for one in redis.client_list() if int(one["sub"])]
    assert [one["name"] for one in found] in ([], [""])
    return bool(found)


async def test_a_wish_is_heard_though_the_connection_was_lost_when_it_was_told(valkey):
    redis, ledger = valkey.client, Ledger()
    async with open_chaos_proxy("127.0.0.1", valkey.server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with running(url, probe(ledger)), open_client(valkey.url) as client:
            job_id = put(redis, PROBE, {"do": "hang"})
            await eventually_async(lambda: ledger.began and listens(redis))
            proxy.blackhole()
            assert await client.cancel(ref(job_id)) is REQUESTED
            proxy.cut(reset=True)
            proxy.restore()
            await eventually_async(lambda: ledger.outcomes == [(job_id, Outcome.CANCELLED)])
            await eventually_async(lambda: not redis.exists(WISHES))


async def test_a_user_who_may_not_subscribe_sees_wishes_at_the_next_review(valkey):
    redis, ledger = valkey.client, Ledger()
    redis.acl_setuser(
        "strict",
        enabled=True,
        passwords=["+pw"],
        commands=["+@all"],
        keys=["*"],
        reset_channels=True,
    )
    try:
        url = valkey.url.replace("redis://", "redis://strict:pw@")
        async with running(url, probe(ledger), QUICK), open_client(url) as client:
            job_id = put(redis, PROBE, {"do": "hang"})
            await eventually_async(lambda: ledger.began)
            # Who may not publish either may still cancel.
            assert await client.cancel(ref(job_id), wait=SOON) is CANCELLED
            assert await client.cancel(ref(put(redis, PROBE, {}, delay=SOON))) is CANCELLED
            await eventually_async(lambda: not redis.exists(WISHES))
    finally:
        redis.acl_deluser("strict")


async def test_a_cancelled_job_is_failed_not_returned_by_a_drain(valkey):
    redis, ledger = valkey.client, Ledger()
    job_id = put(redis, PROBE, {"do": "ignore", "seconds": 0.3})
    settings = {"worker": {"grace": "100ms"}}
    async with (
        running(valkey.url, probe(ledger), settings) as one,
        open_client(valkey.url) as client,
    ):
        await eventually_async(lambda: ledger.began)
        one.worker.request_stop("the test asks for it")
        await client.cancel(ref(job_id))
        await one.stop(within=10)
    assert ledger.outcomes == [(job_id, Outcome.CANCELLED)]
    assert (state_of(redis, job_id), redis.exists(WISHES)) == ("failed", 0)


async def test_a_wish_during_a_drain_is_heard(valkey):
    redis, ledger = valkey.client, Ledger()
    job_id = put(redis, PROBE, {"do": "hang"})
    async with running(valkey.url, probe(ledger)) as one, open_client(valkey.url) as client:
        await eventually_async(lambda: ledger.began)
        one.worker.request_stop("the test asks for it")
        assert await client.cancel(ref(job_id), wait=SOON) is CANCELLED
        await one.stop(within=10)
    assert ledger.outcomes == [(job_id, Outcome.CANCELLED)]


async def test_a_job_that_is_tried_again_by_hand_runs(valkey):
    """A worker remembers the wish for a while; in Redis it is over."""
    redis, ledger = valkey.client, Ledger()
    job_id = put(redis, PROBE, {"do": "hang"})
    async with running(valkey.url, probe(ledger)), open_client(valkey.url) as client:
        await eventually_async(lambda: ledger.began)
        assert await client.cancel(ref(job_id), wait=SOON) is CANCELLED
        await eventually_async(lambda: not redis.exists(WISHES))
        # As Node's `job.retry()` does.
        redis.zrem(KEYS.failed, job_id)
        redis.hdel(KEYS.job(job_id), "finishedOn", "failedReason")
        redis.hset(KEYS.job(job_id), "data", '{"text": "well"}')
        redis.lpush(KEYS.wait, job_id)
        redis.zadd(KEYS.marker, {"0": 0})
        await eventually_async(lambda: state_of(redis, job_id) == "completed")


async def test_a_wish_is_not_for_a_later_job_of_the_same_id(valkey):
    redis, ledger = valkey.client, Ledger()
    redis.hset(WISHES, "mine", "1700000000000")
    put(redis, PROBE, {}, job_id="mine")
    async with running(valkey.url, probe(ledger)):
        await eventually_async(lambda: ledger.outcomes == [("mine", Outcome.COMPLETED)])
    assert not redis.exists(WISHES)


async def test_wishes_that_nobody_has_seen_to_are_pursued_at_the_start(valkey):
    redis, ledger = valkey.client, Ledger()
    later = put(redis, PROBE, {}, delay=timedelta(hours=1))
    gone = put(redis, PROBE, {})
    redis.hset(WISHES, later, redis.hget(KEYS.job(later), "timestamp"))
    redis.hset(WISHES, mapping={gone: redis.hget(KEYS.job(gone), "timestamp"), "none": "1"})
    async with running(valkey.url, probe(ledger)):
        await eventually_async(lambda: state_of(redis, later) == "failed")
        await eventually_async(lambda: state_of(redis, gone) == "failed")
        await eventually_async(lambda: not redis.exists(WISHES))
    assert ledger.began == []


async def test_an_attempt_that_fails_in_spite_of_a_wish_is_not_waited_for(valkey):
    """The wish comes while the failed attempt is written down: the next one would be hours away."""
    redis, told = valkey.client, []

    async def fail(request, context):
        raise RuntimeError("no")

    def cancel_meanwhile(attempt):
        with SyncClient(valkey.url) as client:
            told.append(client.cancel(ref(attempt.job.id)))
        return timedelta(hours=1)

    plugin = processor(fail, backoffs=[BackoffStrategy("slow", cancel_meanwhile)])
    async with running(valkey.url, plugin):
        job_id = put(redis, PROBE, {}, attempts=2, backoff=Backoff("slow"))
        await eventually_async(lambda: told and not redis.exists(WISHES))
    assert told == [REQUESTED]
    fields = fields_of(redis, job_id)
    assert (state_of(redis, job_id), fields["failedReason"]) == ("failed", "cancelled")
    assert (fields["ats"], len(json.loads(fields["stacktrace"]))) == ("1", 1)


async def test_cancelling_closes_the_engines_connection(valkey, fake_engine, start_worker):
    fake_engine.behaviour = type(fake_engine.behaviour)(tokens=10_000, token_seconds=0.02)
    await start_worker(
        {
            "worker": {"plugins": ["chat"]},
            "plugins": {"ollama": {"base_url": fake_engine.url}},
        }
    )
    job_id = put(valkey.client, CHAT, chat("for ever"), attempts=3)
    log = fake_engine.log
    await log.wait_until(lambda log: any(one.chunks > 3 for one in log.select("/api/chat")))
    async with open_client(valkey.url) as client:
        assert await client.cancel(ref(job_id, CHAT), wait=SOON) is CANCELLED
    await log.wait_until(lambda log: log.in_flight == 0)
    assert [one.outcome for one in log.select("/api/chat") if one.chunks] == [
        RequestOutcome.DISCONNECTED
    ]


async def test_whenever_a_wish_comes_a_job_ends_once_and_nothing_is_left(valkey):
    redis, ledger, total = valkey.client, Ledger(), 300
    chance = random.Random(7)
    told = {}
    settings = {"worker": {"concurrency": 5}, **QUICK}
    jobs = [put(redis, PROBE, {"seconds": chance.random() * 0.03}) for _ in range(total)]

    async with running(valkey.url, probe(ledger), settings), open_client(valkey.url) as client:

        async def cancel_some():
            for number in range(100):
                # One that runs or has just ended, or any.
                running_now = number % 2 and ledger.began
                job_id = ledger.began[-1] if running_now else chance.choice(jobs)
                if job_id not in told:
                    told[job_id] = None  # the other one leaves it alone
                    told[job_id] = await client.cancel(ref(job_id))
                await anyio.sleep(chance.random() * 0.01)

        async with anyio.create_task_group() as cancelling:
            cancelling.start_soon(cancel_some)
            cancelling.start_soon(cancel_some)
        await eventually_async(
            lambda: redis.zcard(KEYS.completed) + redis.zcard(KEYS.failed) == total
        )
        await eventually_async(lambda: not redis.exists(WISHES))
    assert {CANCELLED, REQUESTED} <= set(told.values())
    for job_id, outcome in told.items():
        state = state_of(redis, job_id)
        match outcome:
            case CancelOutcome.CANCELLED:
                assert (state, job_id in ledger.began) == ("failed", False)
            case CancelOutcome.FINISHED:
                assert state == "completed"
            case _:
                assert state in {"completed", "failed"}
    ended = [job_id for job_id, _ in ledger.outcomes]
    assert len(ended) == len(set(ended)) == total - list(told.values()).count(CANCELLED)
    assert locks(redis) == []

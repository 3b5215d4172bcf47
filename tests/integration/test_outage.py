"""Redis away, at the start and in the middle: what was begun is neither lost nor done twice."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest
import redis

from tests.integration.support import (
    PROBE,
    Ledger,
    fields_of,
    locks,
    probe,
    put,
    running,
    state_of,
)
from worker_core import Outcome
from worker_core._bullmq.job import Backoff
from worker_core.embedded import EmbeddedValkey
from worker_core.errors import RedisUnavailable
from worker_core.testing.polling import eventually, eventually_async
from worker_core.testing.proxy import open_chaos_proxy
from worker_core.testing.workers import build_worker

BASE = f"bull:{PROBE}"


def witness(server):
    """redis-py, which connects anew after each outage."""
    return redis.Redis.from_url(server.url)


# At the start


def start_echo(start_process, tmp_path, port, redis_config):
    file = tmp_path / "outage.toml"
    file.write_text(f"[redis]\n{redis_config}")
    return start_process(
        *("--plugins", "echo", "--engine", "none", "--config", str(file)),
        environment={"REDIS_URL": f"redis://127.0.0.1:{port}"},
    )


def test_a_worker_that_cannot_reach_redis_says_so_and_gives_up_in_time(
    start_process, tmp_path, free_tcp_port
):
    process = start_echo(start_process, tmp_path, free_tcp_port, "start_timeout = '1s'")
    eventually(lambda: "no connection to" in process.log)
    assert process.wait(within=15) == 1
    *_, last = process.log.splitlines()
    said = json.loads(last)
    assert said["event"] == "Redis cannot be reached"
    assert f"127.0.0.1:{free_tcp_port}" in said["reason"]
    assert "within 1 s" in said["reason"]
    assert "refused" in said["reason"].lower()
    assert "Traceback" not in process.log


async def test_a_worker_in_a_loop_of_ours_raises_that_redis_is_unavailable(free_tcp_port):
    url = f"redis://127.0.0.1:{free_tcp_port}"
    tables = {"redis": {"url": url, "start_timeout": "200ms"}, "worker": {"engine": "none"}}
    worker = build_worker(tables, [probe()])
    with pytest.raises(RedisUnavailable, match=r"could not be reached within 0\.2 s"):
        await worker.run()


def test_a_worker_waits_for_redis_to_come_up(start_process, tmp_path, free_tcp_port):
    process = start_echo(start_process, tmp_path, free_tcp_port, "start_timeout = '60s'")
    eventually(lambda: "no connection to" in process.log)
    with EmbeddedValkey(port=free_tcp_port) as server:
        process.wait_ready()
        with witness(server) as client:
            job_id = put(client, "echo", {"text": "here"})
            eventually(lambda: state_of(client, job_id, "echo") == "completed")
        process.kill()


# In the middle


@pytest.fixture
def server(tmp_path):
    """A server of the test's own that keeps its data over a restart."""
    with EmbeddedValkey(tmp_path / "valkey") as started:
        yield started


@pytest.fixture
def client(server):
    with witness(server) as connected:
        yield connected


def assert_ran_once(client, ledger, job_id, *, state="completed"):
    assert ledger.began.count(job_id) == 1
    fields = fields_of(client, job_id)
    assert state_of(client, job_id) == state, fields
    assert (fields["ats"], fields["atm"]) == ("1", "1")


async def test_jobs_run_on_while_redis_restarts_and_their_locks_are_renewed(server, client):
    ledger = Ledger()
    settings = {"queue": {"lock_duration": "6s", "lock_renew_time": "3s"}}
    async with running(server.url, probe(ledger), settings):
        job_id = put(client, PROBE, {"seconds": 3.5})
        await eventually_async(lambda: ledger.began)
        server.kill()
        await anyio.to_thread.run_sync(server.start)
        lock = f"{BASE}:{job_id}:lock"
        left = client.pttl(lock)
        assert 0 < left < 6000
        await eventually_async(lambda: client.pttl(lock) > left, what="its lock was renewed")
        await eventually_async(lambda: state_of(client, job_id) == "completed")
        assert_ran_once(client, ledger, job_id)


@pytest.mark.parametrize(
    ("data", "options", "state"),
    [
        pytest.param({}, {}, "completed", id="completing"),
        pytest.param({"do": "fail"}, {}, "failed", id="failing"),
        pytest.param(
            {"do": "fail"},
            {"attempts": 2, "backoff": Backoff("fixed", 60_000)},
            "delayed",
            id="delaying",
        ),
    ],
)
async def test_what_ends_during_an_outage_is_written_after_it(server, client, data, options, state):
    ledger = Ledger()
    async with running(server.url, probe(ledger)):
        jobs = [put(client, PROBE, {"seconds": 0.3, **data}, **options) for _ in range(3)]
        await eventually_async(lambda: len(ledger.began) == 3)
        server.kill()
        await eventually_async(lambda: len(ledger.ended) == 3)
        assert ledger.outcomes == []
        await anyio.to_thread.run_sync(server.start)
        await eventually_async(lambda: len(ledger.outcomes) == 3)
        for job_id in jobs:
            assert_ran_once(client, ledger, job_id, state=state)
        assert locks(client) == []
        # And it goes on with what comes next.
        after = put(client, PROBE, {})
        await eventually_async(lambda: state_of(client, after) == "completed")


async def test_an_outage_over_the_timeout_costs_the_result_and_not_the_worker(server, client):
    ledger = Ledger()
    async with running(server.url, probe(ledger), {"redis": {"outage_timeout": "500ms"}}):
        job_id = put(client, PROBE, {"seconds": 0.2})
        await eventually_async(lambda: ledger.began)
        server.kill()
        await eventually_async(lambda: ledger.outcomes)
        assert ledger.outcomes == [(job_id, Outcome.LOST)]
        await anyio.to_thread.run_sync(server.start)
        after = put(client, PROBE, {})
        await eventually_async(lambda: state_of(client, after) == "completed")
        # Its lock runs out, and the stalled check gives it to somebody.
        assert state_of(client, job_id) == "active"
        assert "atm" not in fields_of(client, job_id)


async def test_a_lock_that_ran_out_during_the_outage_stops_its_job(server, client):
    ledger = Ledger()
    settings = {"queue": {"lock_duration": "600ms", "lock_renew_time": "300ms"}}
    async with running(server.url, probe(ledger), settings):
        job_id = put(client, PROBE, {"do": "hang"})
        await eventually_async(lambda: ledger.began)
        server.kill()
        with anyio.move_on_after(0.7):
            await anyio.sleep_forever()
        await anyio.to_thread.run_sync(server.start)
        await eventually_async(lambda: ledger.outcomes)
        assert ledger.outcomes == [(job_id, Outcome.LOST)]
        assert ledger.cancelled == [job_id]
        after = put(client, PROBE, {})
        await eventually_async(lambda: state_of(client, after) == "completed")


async def test_a_delayed_job_that_came_due_during_the_outage_runs_after_it(server, client):
    ledger = Ledger()
    async with running(server.url, probe(ledger)):
        job_id = put(client, PROBE, {}, delay=timedelta(milliseconds=300))
        server.kill()
        await anyio.to_thread.run_sync(server.start)
        await eventually_async(lambda: state_of(client, job_id) == "completed")
        assert_ran_once(client, ledger, job_id)


# Lost replies


@asynccontextmanager
async def behind_proxy(valkey, plugin, settings=None):
    """A worker whose connections pass a proxy that holds every chunk back for a while: what the
    witness sees on the server has its reply still under way, and a cut then loses it."""
    async with open_chaos_proxy("127.0.0.1", valkey.server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with running(url, plugin, settings) as one:
            yield one, proxy


HELD_BACK = 0.25


async def lose_reply(proxy, seen):
    """Cut every connection once `seen` says that the server has run the call."""
    await eventually_async(seen)
    assert proxy.cut() > 0
    proxy.delay = 0.0


async def test_a_lost_reply_to_a_finish_is_recorded_once_and_its_next_job_is_run(valkey):
    client, ledger = valkey.client, Ledger()
    async with behind_proxy(valkey, probe(ledger), {"worker": {"concurrency": 1}}) as (_, proxy):
        first = put(client, PROBE, {"seconds": 0.5})
        second = put(client, PROBE, {})
        third = put(client, PROBE, {})
        await eventually_async(lambda: ledger.began == [first])
        proxy.delay = HELD_BACK
        await lose_reply(proxy, lambda: state_of(client, first) == "completed")
        # The finish whose reply is lost made the second job active.
        assert state_of(client, second) == "active"
        await eventually_async(lambda: state_of(client, third) == "completed")
        for job_id in (first, second, third):
            assert_ran_once(client, ledger, job_id)
        assert [outcome for _, outcome in ledger.outcomes] == [Outcome.COMPLETED] * 3
        assert locks(client) == []


async def test_a_renewal_after_a_lost_finish_does_not_cost_the_completion(valkey):
    # When the link is back, a renewal is due and finds no lock, because the finish has run.
    client, ledger = valkey.client, Ledger()
    settings = {"worker": {"concurrency": 1}, "queue": {"lock_renew_time": "400ms"}}
    async with behind_proxy(valkey, probe(ledger), settings) as (_, proxy):
        first = put(client, PROBE, {"seconds": 0.5})
        second = put(client, PROBE, {})
        await eventually_async(lambda: ledger.began == [first])
        proxy.delay = HELD_BACK
        await eventually_async(lambda: state_of(client, first) == "completed")
        proxy.refusing = True
        assert proxy.cut() > 0
        proxy.delay = 0.0
        due_at = anyio.current_time() + 0.8
        await eventually_async(lambda: anyio.current_time() > due_at)
        proxy.refusing = False
        await eventually_async(lambda: state_of(client, second) == "completed")
        await eventually_async(lambda: len(ledger.outcomes) == 2)
        assert ledger.outcomes == [(first, Outcome.COMPLETED), (second, Outcome.COMPLETED)]
        for job_id in (first, second):
            assert_ran_once(client, ledger, job_id)


@pytest.mark.parametrize("keep", [0, 1])
async def test_a_lost_reply_to_a_finish_that_removed_its_job_is_a_completion(valkey, keep):
    client, ledger = valkey.client, Ledger()
    async with behind_proxy(valkey, probe(ledger)) as (_, proxy):
        job_id = put(client, PROBE, {"seconds": 0.5}, keep_completed=keep)
        await eventually_async(lambda: ledger.began)
        proxy.delay = HELD_BACK
        await lose_reply(proxy, lambda: state_of(client, job_id) in {None, "completed"})
        await eventually_async(lambda: ledger.outcomes)
        assert ledger.outcomes == [(job_id, Outcome.COMPLETED)]


async def test_a_lost_reply_to_a_failure_is_recorded_once(valkey):
    client, ledger = valkey.client, Ledger()
    async with behind_proxy(valkey, probe(ledger)) as (_, proxy):
        job_id = put(client, PROBE, {"do": "fail", "seconds": 0.5, "text": "no luck"})
        await eventually_async(lambda: ledger.began)
        proxy.delay = HELD_BACK
        await lose_reply(proxy, lambda: state_of(client, job_id) == "failed")
        await eventually_async(lambda: ledger.outcomes)
        assert ledger.outcomes == [(job_id, Outcome.FAILED)]
        assert_ran_once(client, ledger, job_id, state="failed")


@pytest.mark.parametrize("backoff", [None, Backoff("fixed", 500)])
async def test_a_lost_reply_to_a_retry_spends_one_attempt(valkey, backoff):
    client, ledger = valkey.client, Ledger()
    async with behind_proxy(valkey, probe(ledger)) as (_, proxy):
        data = {"do": "fail", "seconds": 0.5}
        job_id = put(client, PROBE, data, attempts=2, backoff=backoff)
        await eventually_async(lambda: ledger.began)
        proxy.delay = HELD_BACK
        await lose_reply(proxy, lambda: fields_of(client, job_id).get("atm") == "1")
        await eventually_async(lambda: state_of(client, job_id) == "failed")
        await eventually_async(lambda: len(ledger.outcomes) == 2)
        assert [outcome for _, outcome in ledger.outcomes] == [Outcome.RETRIED, Outcome.FAILED]
        assert ledger.began == [job_id, job_id]
        fields = fields_of(client, job_id)
        assert (fields["ats"], fields["atm"]) == ("2", "2")


async def test_a_lost_reply_to_a_claim_leaves_no_job_active(valkey):
    client, ledger = valkey.client, Ledger()
    async with behind_proxy(valkey, probe(ledger)) as (_, proxy):
        proxy.delay = HELD_BACK
        job_id = put(client, PROBE, {})
        await lose_reply(proxy, lambda: state_of(client, job_id) == "active")
        await eventually_async(lambda: state_of(client, job_id) == "completed")
        assert_ran_once(client, ledger, job_id)


async def test_a_lost_reply_to_a_return_still_returns_the_job(valkey):
    client, ledger = valkey.client, Ledger()
    async with behind_proxy(valkey, probe(ledger), {"worker": {"grace": "10ms"}}) as (one, proxy):
        job_id = put(client, PROBE, {"do": "hang"})
        await eventually_async(lambda: ledger.began)
        proxy.delay = HELD_BACK
        one.worker.request_stop("the test asks for it")
        await lose_reply(proxy, lambda: state_of(client, job_id) == "wait")
        with anyio.fail_after(10):
            await one.ended.wait()
        assert ledger.outcomes == [(job_id, Outcome.RETURNED)]
        assert "atm" not in fields_of(client, job_id)


async def test_a_finish_that_never_left_is_sent_after_the_cut(valkey):
    client, ledger = valkey.client, Ledger()
    async with behind_proxy(valkey, probe(ledger)) as (_, proxy):
        job_id = put(client, PROBE, {"seconds": 0.3})
        await eventually_async(lambda: ledger.began)
        proxy.blackhole()
        await eventually_async(lambda: ledger.ended)
        assert state_of(client, job_id) == "active"
        proxy.cut(reset=True)
        proxy.restore()
        await eventually_async(lambda: ledger.outcomes)
        assert_ran_once(client, ledger, job_id)


async def test_every_job_runs_once_while_the_link_is_cut_again_and_again(valkey):
    client, ledger, total = valkey.client, Ledger(), 200
    settings = {"worker": {"concurrency": 10}}
    async with behind_proxy(valkey, probe(ledger), settings) as (_, proxy):
        jobs = [put(client, PROBE, {"seconds": 0.02 * (n % 12)}) for n in range(total)]
        cuts = 0
        while len(ledger.outcomes) < total:
            with anyio.move_on_after(0.15):
                await eventually_async(lambda: len(ledger.outcomes) == total, within=1)
            cuts += bool(proxy.cut(reset=bool(cuts % 2)))
            assert cuts < 400, Counter(ledger.outcomes)
        assert cuts > 5
    assert Counter(outcome for _, outcome in ledger.outcomes) == {Outcome.COMPLETED: total}
    assert client.zcard(f"{BASE}:completed") == total
    assert client.llen(f"{BASE}:active") == client.llen(f"{BASE}:wait") == 0
    for job_id in jobs:
        assert_ran_once(client, ledger, job_id)
    assert locks(client) == []


# Stopping without Redis


async def test_a_stop_is_bounded_though_redis_answers_nothing(valkey):
    """A claim is under way and a job runs when the server falls silent; then the stop comes."""
    client, ledger = valkey.client, Ledger()
    settings = {"worker": {"grace": "500ms"}, "redis": {"reply_timeout": "1s"}}
    async with behind_proxy(valkey, probe(ledger), settings) as (one, proxy):
        put(client, PROBE, {"do": "hang"})
        await eventually_async(lambda: ledger.began)
        proxy.delay = HELD_BACK
        claimed = put(client, PROBE, {"do": "hang"})
        await eventually_async(lambda: state_of(client, claimed) == "active")
        proxy.blackhole()
        await one.stop(within=13)


async def test_a_second_stop_is_heard_though_redis_answers_nothing(valkey):
    client, ledger = valkey.client, Ledger()
    settings = {"worker": {"grace": "10m"}, "redis": {"reply_timeout": "1s"}}
    async with behind_proxy(valkey, probe(ledger), settings) as (one, proxy):
        put(client, PROBE, {"do": "hang"})
        await eventually_async(lambda: ledger.began)
        proxy.delay = HELD_BACK
        claimed = put(client, PROBE, {"do": "hang"})
        await eventually_async(lambda: state_of(client, claimed) == "active")
        proxy.blackhole()
        one.worker.request_stop("first")
        one.worker.hurry("second")
        await one.stop(within=13)


async def test_a_stop_while_redis_is_gone_is_bounded(server, client):
    ledger = Ledger()
    async with running(server.url, probe(ledger), {"worker": {"grace": "300ms"}}) as one:
        job_id = put(client, PROBE, {"do": "hang"})
        await eventually_async(lambda: ledger.began)
        server.kill()
        await one.stop(within=12)
        assert ledger.outcomes == [(job_id, Outcome.LOST)]

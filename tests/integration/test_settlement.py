"""Every way in which the queue may refuse or take what a run ended with."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import timedelta

import pytest

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
from worker_core.testing.polling import eventually_async

BASE = f"bull:{PROBE}"

ENDS = {
    "completing": ({}, {}),
    "failing": ({"do": "fail", "text": "no luck"}, {}),
    "retrying": ({"do": "fail", "text": "no luck"}, {"attempts": 2}),
    "delaying": ({"do": "fail"}, {"attempts": 2, "backoff": Backoff("fixed", 60_000)}),
}
"""The calls that settle a job: data and options that lead to each."""


def delete_lock(client, job_id):
    client.delete(f"{BASE}:{job_id}:lock")


def steal_lock(client, job_id):
    client.set(f"{BASE}:{job_id}:lock", "another:1", px=60_000)


def remove_job(client, job_id):
    with client.pipeline() as together:
        together.lrem(f"{BASE}:active", 0, job_id)
        together.delete(f"{BASE}:{job_id}", f"{BASE}:{job_id}:lock")
        together.execute()


def take_from_active(client, job_id):
    client.lrem(f"{BASE}:active", 0, job_id)


async def begun(ledger, client, data, options):
    """Add a job that takes half a second and wait until it runs."""
    job_id = put(client, PROBE, {"seconds": 0.5, **data}, **options)
    await eventually_async(lambda: job_id in ledger.began)
    return job_id


async def goes_on(ledger, client):
    """The worker, whatever happened, runs the next job."""
    job_id = put(client, PROBE, {"text": "next"})
    await eventually_async(lambda: state_of(client, job_id) == "completed")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("loss", [delete_lock, steal_lock, remove_job, take_from_active])
async def test_a_job_that_is_lost_while_it_runs_is_not_written_to(valkey, loss, end):
    ledger = Ledger()
    data, options = ENDS[end]
    async with running(valkey.url, probe(ledger)):
        job_id = await begun(ledger, valkey.client, data, options)
        loss(valkey.client, job_id)
        before = fields_of(valkey.client, job_id), state_of(valkey.client, job_id)
        await eventually_async(lambda: ledger.outcomes)
        assert ledger.outcomes == [(job_id, Outcome.LOST)]
        after = fields_of(valkey.client, job_id), state_of(valkey.client, job_id)
        if loss is take_from_active:
            # BullMQ's script writes the failure's fields before it looks at the list.
            for fields, _ in (before, after):
                for name in ("failedReason", "stacktrace", "wc:history"):
                    fields.pop(name, None)
        assert after == before
        if loss is steal_lock:
            assert valkey.client.get(f"{BASE}:{job_id}:lock") == b"another:1"
        await goes_on(ledger, valkey.client)


@pytest.mark.parametrize("loss", [delete_lock, steal_lock, remove_job])
async def test_the_keeper_stops_a_job_whose_lock_is_lost(valkey, loss):
    ledger = Ledger()
    settings = {"queue": {"lock_duration": "2s", "lock_renew_time": "200ms"}}
    async with running(valkey.url, probe(ledger), settings):
        job_id = put(valkey.client, PROBE, {"do": "hang"})
        kept = put(valkey.client, PROBE, {"seconds": 1.0})
        await eventually_async(lambda: len(ledger.began) == 2)
        loss(valkey.client, job_id)
        await eventually_async(lambda: ledger.cancelled == [job_id])
        await eventually_async(lambda: ledger.outcomes)
        assert ledger.outcomes[0] == (job_id, Outcome.LOST)
        assert "finishedOn" not in fields_of(valkey.client, job_id)
        # The other job was renewed in the same call and is none the worse.
        await eventually_async(lambda: state_of(valkey.client, kept) == "completed")
        await goes_on(ledger, valkey.client)


@pytest.mark.parametrize("loss", [delete_lock, steal_lock, remove_job, take_from_active])
async def test_a_lost_job_is_not_returned_by_a_drain(valkey, loss):
    ledger = Ledger()
    async with running(valkey.url, probe(ledger), {"worker": {"grace": "10ms"}}) as one:
        job_id = put(valkey.client, PROBE, {"do": "hang"})
        await eventually_async(lambda: ledger.began)
        loss(valkey.client, job_id)
        before = state_of(valkey.client, job_id)
        await one.stop(within=10)
    assert state_of(valkey.client, job_id) == before
    if loss is not take_from_active:
        assert ledger.outcomes == [(job_id, Outcome.LOST)]


@pytest.mark.parametrize(
    ("lifo", "order"),
    [
        pytest.param(False, ["1", "2", "1"], id="fifo"),
        pytest.param(True, ["1", "1", "2"], id="lifo"),
    ],
)
async def test_a_job_without_a_backoff_is_tried_again_in_its_turn(valkey, lifo, order):
    ledger = Ledger()
    async with running(valkey.url, probe(ledger), {"worker": {"concurrency": 1}}):
        await begun(ledger, valkey.client, {"do": "fail"}, {"attempts": 2, "lifo": lifo})
        put(valkey.client, PROBE, {}, lifo=lifo)
        await eventually_async(lambda: len(ledger.outcomes) == 3)
    assert ledger.began == order


async def test_a_backoff_that_is_a_number_is_milliseconds(valkey):
    """Node's producers write an object in its place; others do not."""
    ledger = Ledger()
    job_id = put(valkey.client, PROBE, {"do": "fail"})
    valkey.client.hset(f"{BASE}:{job_id}", "opts", '{"attempts": 2, "backoff": 60000}')
    async with running(valkey.url, probe(ledger)):
        await eventually_async(lambda: state_of(valkey.client, job_id) == "delayed")
    assert fields_of(valkey.client, job_id)["delay"] == "60000"


async def test_a_job_with_open_children_fails_and_is_tried_again(valkey):
    ledger = Ledger()
    async with running(valkey.url, probe(ledger)):
        job_id = await begun(ledger, valkey.client, {}, {"attempts": 2})
        valkey.client.sadd(f"{BASE}:{job_id}:dependencies", f"{BASE}:child")
        await eventually_async(lambda: len(ledger.began) == 2)
        fields = fields_of(valkey.client, job_id)
        assert fields["atm"] == "1"
        assert "has pending dependencies" in fields["failedReason"]
        valkey.client.delete(f"{BASE}:{job_id}:dependencies")
        await eventually_async(lambda: state_of(valkey.client, job_id) == "completed")
    assert [outcome for _, outcome in ledger.outcomes] == [Outcome.RETRIED, Outcome.COMPLETED]


async def test_a_job_whose_child_failed_fails_for_good(valkey):
    ledger = Ledger()
    async with running(valkey.url, probe(ledger)):
        job_id = await begun(ledger, valkey.client, {}, {"attempts": 5})
        valkey.client.zadd(f"{BASE}:{job_id}:unsuccessful", {f"{BASE}:child": 1})
        await eventually_async(lambda: state_of(valkey.client, job_id) == "failed")
        fields = fields_of(valkey.client, job_id)
    assert fields["atm"] == "1"
    assert "at least one failed child" in fields["failedReason"]


async def test_a_deferred_failure_is_recorded_without_a_run(valkey):
    """The stalled check and Node's flows leave it to whoever fetches the job next."""
    ledger = Ledger()
    job_id = put(valkey.client, PROBE, {}, attempts=5)
    valkey.client.hset(f"{BASE}:{job_id}", "defa", "stalled too often")
    async with running(valkey.url, probe(ledger)):
        await eventually_async(lambda: state_of(valkey.client, job_id) == "failed")
    fields = fields_of(valkey.client, job_id)
    assert fields["failedReason"] == "stalled too often"
    assert "defa" not in fields
    assert ledger.began == []


@contextmanager
def refusing(client, setting, value, otherwise):
    """A server that takes no writes; `refused()` counts how often it said so."""
    client.config_resetstat()
    client.config_set(setting, value)
    try:
        yield lambda: sum(
            kind["count"]
            for name, kind in client.info("errorstats").items()
            if name in {"errorstat_OOM", "errorstat_NOREPLICAS"}
        )
    finally:
        client.config_set(setting, otherwise)


@pytest.mark.parametrize("end", ENDS)
async def test_what_the_server_refuses_is_written_later(valkey, end):
    ledger = Ledger()
    data, options = ENDS[end]
    async with running(valkey.url, probe(ledger)):
        job_id = await begun(ledger, valkey.client, data, options)
        with refusing(valkey.client, "min-replicas-to-write", "1", "0") as refused:
            await eventually_async(lambda: ledger.ended)
            await eventually_async(lambda: refused() >= 2)
            assert state_of(valkey.client, job_id) == "active"
            assert ledger.outcomes == []
        if end == "retrying":
            await eventually_async(lambda: len(ledger.outcomes) == 2)
        await eventually_async(lambda: ledger.outcomes)
        attempts, state = {
            "completing": ("1", "completed"),
            "failing": ("1", "failed"),
            "retrying": ("2", "failed"),
            "delaying": ("1", "delayed"),
        }[end]
        assert state_of(valkey.client, job_id) == state
        assert fields_of(valkey.client, job_id)["atm"] == attempts
        await goes_on(ledger, valkey.client)
        assert locks(valkey.client) == []


@pytest.mark.parametrize("end", ENDS)
async def test_a_full_server_takes_how_a_job_ended(valkey, end):
    """BullMQ's scripts begin by deleting the lock, after which the server lets them write.

    What is written beside them waits: dead letters, large results.
    """
    ledger = Ledger()
    data, options = ENDS[end]
    async with running(valkey.url, probe(ledger), {"dead_letters": {"enabled": False}}):
        job_id = await begun(ledger, valkey.client, data, options)
        with refusing(valkey.client, "maxmemory", "1mb", "0"):
            await eventually_async(lambda: ledger.outcomes)
            assert fields_of(valkey.client, job_id)["atm"] == "1"
        await goes_on(ledger, valkey.client)


async def test_a_full_server_refuses_claims_and_the_worker_asks_again(valkey):
    ledger = Ledger()
    job_id = put(valkey.client, PROBE, {})
    with refusing(valkey.client, "maxmemory", "1mb", "0") as refused:
        async with running(valkey.url, probe(ledger)):
            await eventually_async(lambda: refused() >= 2)
            # A refused claim is no reason to ask a hundred times a second.
            assert refused() < 10
            assert ledger.began == []
            valkey.client.config_set("maxmemory", "0")
            await eventually_async(lambda: state_of(valkey.client, job_id) == "completed")


async def test_a_large_result_waits_until_a_full_server_has_room(valkey):
    ledger = Ledger()
    settings = {"results": {"inline_limit": 1000}}
    async with running(valkey.url, probe(ledger), settings):
        job_id = await begun(ledger, valkey.client, {"text": "x" * 5000}, {})
        with refusing(valkey.client, "maxmemory", "1mb", "0") as refused:
            await eventually_async(lambda: ledger.ended)
            await eventually_async(lambda: refused() >= 2)
            assert state_of(valkey.client, job_id) == "active"
        await eventually_async(lambda: state_of(valkey.client, job_id) == "completed")
    pointer = json.loads(fields_of(valkey.client, job_id)["returnvalue"])
    assert pointer["answer"] is None
    whole = json.loads(valkey.client.get(pointer["stored"]["key"]))
    assert whole["answer"] == "x" * 5000
    assert 0 < valkey.client.ttl(pointer["stored"]["key"]) <= timedelta(days=1).total_seconds()

"""Cancelling jobs in every state, by clients whose calls and lives may end anywhere."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.support import (
    PROBE,
    fields_of,
    locks,
    probe,
    put,
    running,
    state_of,
)
from tests.integration.test_stalled import claim_as_ghost, events_of
from worker_core._bullmq.calls import ClaimOptions, sweep_stalled
from worker_core._bullmq.cancelling import cancel_job
from worker_core._bullmq.keys import QueueKeys
from worker_core.client import CancelOutcome, JobRef, SyncClient, open_client
from worker_core.testing.polling import eventually_async

BASE = f"bull:{PROBE}"
KEYS = QueueKeys("bull", PROBE)
WISHES = KEYS.wishes
CANCELLED, REQUESTED = CancelOutcome.CANCELLED, CancelOutcome.REQUESTED
HOUR = timedelta(hours=1)
SOON = timedelta(seconds=10)
QUICK = {"queue": {"stalled_interval": "200ms"}}


@pytest.fixture
def client(valkey):
    with SyncClient(valkey.url) as made:
        yield made


def ref(job_id):
    return JobRef(job_id, PROBE)


# Where a job may wait


def waiting(redis, **options):
    put(redis, PROBE, {})
    job_id = put(redis, PROBE, {}, **options)
    put(redis, PROBE, {})
    return job_id


def paused(redis):
    redis.hset(KEYS.meta, "paused", 1)
    return waiting(redis)


def in_the_old_paused_list(redis):
    job_id = put(redis, PROBE, {})
    redis.rename(KEYS.wait, KEYS.paused)
    return job_id


def waiting_for_children(redis):
    job_id = put(redis, PROBE, {})
    redis.lrem(KEYS.wait, 1, job_id)
    redis.zadd(KEYS.waiting_children, {job_id: 1})
    redis.sadd(f"{BASE}:{job_id}:dependencies", "bull:kids:1")
    return job_id


def abandoned(redis):
    """Active, and its worker's lock has run out."""
    job_id = put(redis, PROBE, {})
    claim_as_ghost(redis, lock_ms=60_000)
    redis.delete(f"{BASE}:{job_id}:lock")
    return job_id


PLACES = {
    "waiting": waiting,
    "prioritized": partial(waiting, priority=3),
    "delayed": partial(waiting, delay=HOUR),
    "delayed with a priority": partial(waiting, delay=HOUR, priority=3),
    "tried before": partial(waiting, attempts=5),
    "in a paused queue": paused,
    "in the paused list of older versions": in_the_old_paused_list,
    "waiting for children": waiting_for_children,
    "active without a worker": abandoned,
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_job_that_nobody_runs_fails_at_once(valkey, client, place):
    redis = valkey.client
    job_id = place(redis)
    others = redis.llen(KEYS.wait) + redis.zcard(KEYS.prioritized) + redis.zcard(KEYS.delayed)
    assert client.cancel(ref(job_id)) is CANCELLED
    fields = fields_of(redis, job_id)
    assert (state_of(redis, job_id), fields["failedReason"]) == ("failed", "cancelled")
    assert int(fields["finishedOn"]) >= int(fields["timestamp"])
    events = events_of(redis, job_id)
    assert (events["failed"], events["active"]) == (1, int(place is abandoned))
    left = redis.llen(KEYS.wait) + redis.zcard(KEYS.prioritized) + redis.zcard(KEYS.delayed)
    assert left == others - (place not in {abandoned, waiting_for_children, in_the_old_paused_list})
    assert (redis.llen(KEYS.active), locks(redis), redis.exists(WISHES)) == (0, [], 0)
    # And again: it has ended.
    assert client.cancel(ref(job_id)) is CancelOutcome.FINISHED
    assert events_of(redis, job_id)["failed"] == 1


def test_a_job_that_was_never_run_does_not_look_as_if(valkey, client):
    job_id = put(valkey.client, PROBE, {})
    client.cancel(ref(job_id))
    view = client.get(ref(job_id))
    assert (view.processed_at, view.worker, view.stacktrace) == (None, None, ())


def test_a_job_with_an_attempt_behind_it_keeps_its_traces(valkey, client):
    job_id = put(valkey.client, PROBE, {}, attempts=3)
    valkey.client.hset(f"{BASE}:{job_id}", mapping={"stacktrace": '["one"]', "atm": 1})
    client.cancel(ref(job_id))
    assert client.get(ref(job_id)).stacktrace == ("one",)


@pytest.mark.parametrize("state", ["completed", "failed"])
async def test_a_job_that_has_ended_is_left_as_it_is(valkey, state):
    do = "answer" if state == "completed" else "fail"
    job_id = put(valkey.client, PROBE, {"do": do, "text": "so"})
    async with running(valkey.url, probe()), open_client(valkey.url) as client:
        await eventually_async(lambda: state_of(valkey.client, job_id) == state)
        before = fields_of(valkey.client, job_id)
        assert await client.cancel(ref(job_id), wait=SOON) is CancelOutcome.FINISHED
    assert fields_of(valkey.client, job_id) == before
    assert not valkey.client.exists(WISHES)


@pytest.mark.parametrize("job_id", ["none", "meta", "wait", "cancels:wished", ""])
def test_what_is_no_job_is_said_to_be_none(valkey, client, job_id):
    put(valkey.client, PROBE, {})
    assert client.cancel(ref(job_id)) is CancelOutcome.UNKNOWN
    assert not valkey.client.exists(WISHES)


def test_a_job_that_is_not_kept_leaves_nothing(valkey, client):
    before = set(valkey.client.keys())
    job_id = put(valkey.client, PROBE, {}, keep_failed=0)
    assert client.cancel(ref(job_id)) is CANCELLED
    rest = {key.decode() for key in set(valkey.client.keys()) - before}
    assert rest == {KEYS.events, KEYS.id, KEYS.marker, KEYS.meta}


def test_a_job_that_scripts_would_stumble_over_is_cancelled_too(valkey, client):
    job_id = put(valkey.client, PROBE, {})
    valkey.client.hset(f"{BASE}:{job_id}", mapping={"atm": "many", "parent": "{"})
    assert client.cancel(ref(job_id)) is CANCELLED
    assert state_of(valkey.client, job_id) == "failed"


def test_cancelled_jobs_are_counted_where_ended_ones_are(valkey, client):
    redis = valkey.client
    client.cancel(ref(put(redis, PROBE, {})))
    assert not redis.exists(KEYS.metrics("failed"))
    redis.hset(KEYS.metrics("completed"), mapping={"count": 5})
    client.cancel(ref(put(redis, PROBE, {})))
    assert redis.hget(KEYS.metrics("failed"), "count") == b"1"


def test_a_worker_that_found_no_room_meanwhile_is_told(valkey, client):
    """Taken out, the job counts as active: under a limit of the queue a worker finds no room."""
    redis = valkey.client
    redis.hset(KEYS.meta, "concurrency", 1)
    first, _ = put(redis, PROBE, {}), put(redis, PROBE, {})
    redis.delete(KEYS.marker)
    client.cancel(ref(first))
    assert redis.zscore(KEYS.marker, "0") == 0
    # No more than that: a queue that is paused stays so.
    redis.delete(KEYS.marker)
    redis.hset(KEYS.meta, "paused", 1)
    client.cancel(ref(put(redis, PROBE, {})))
    assert not redis.exists(KEYS.marker)


# Cancellers whose replies are lost, and who die


LOCK_MS = 60_000


def carry(redis, call):
    return redis.eval(call.script.source, len(call.keys), *call.keys, *call.args)


def cancel_for_a_while(redis, job_id, steps, twice):
    """Make so many of a canceller's calls, some of them twice; return its outcome or `None`."""
    flow = cancel_job(KEYS, job_id, ClaimOptions(worker="c", lock_ms=LOCK_MS))
    reply = None
    for number in range(steps):
        try:
            call = flow.send(reply)
        except StopIteration as end:
            return end.value
        reply = carry(redis, call)
        if number in twice:
            reply = carry(redis, call)
    return None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    place=st.sampled_from(sorted(PLACES)),
    cancellers=st.lists(
        st.tuples(st.integers(0, 9), st.sets(st.integers(0, 3))), min_size=1, max_size=3
    ),
    removed=st.booleans(),
)
def test_whoever_dies_where_the_job_is_cancelled_once(valkey, place, cancellers, removed):
    redis = valkey.client
    redis.flushall()
    job_id = PLACES[place](redis)
    if removed:
        redis.hset(f"{BASE}:{job_id}", "opts", '{"removeOnFail":true}')
    wished = False
    for steps, twice in cancellers:
        outcome = cancel_for_a_while(redis, job_id, steps, twice)
        wished = wished or steps > 0
        if steps == 9:
            # The next one answers for those before it: it comes behind, or finds the other's lock.
            assert outcome in {*CancelOutcome} - (set() if removed else {CancelOutcome.UNKNOWN})
    # What a dead canceller has left: its lock runs out, and two checks put the job back.
    for lock in locks(redis):
        redis.delete(lock)
    for _ in range(2):
        redis.delete(KEYS.stalled_check)
        carry(redis, sweep_stalled(KEYS, 1, 1))
    if wished and not events_of(redis, job_id)["failed"]:
        assert redis.hkeys(WISHES) == [job_id.encode()]
    cancel_for_a_while(redis, job_id, 9, set())
    assert events_of(redis, job_id)["failed"] == 1
    assert state_of(redis, job_id) == (None if removed else "failed")
    assert (redis.exists(WISHES), locks(redis)) == (0, [])


def test_a_reply_that_is_lost_after_the_last_step_changes_no_answer(valkey):
    for removed in (False, True):
        options = {"keep_failed": 0} if removed else {}
        job_id = put(valkey.client, PROBE, {}, **options)
        assert cancel_for_a_while(valkey.client, job_id, 9, {0, 1, 2}) is CANCELLED

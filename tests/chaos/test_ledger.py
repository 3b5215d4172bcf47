"""Workers are killed in every phase of a job's life and the server once: nothing is lost, nothing is
recorded twice. And the ledger that says so can tell when it is not so."""

from __future__ import annotations

import pytest

from tests.chaos.campaign import QUEUE, Plan, run_campaign
from tests.chaos.cluster import open_cluster
from tests.chaos.ledger import label_of, prompt_of, take_ledger
from tests.chaos.strikes import PHASES
from tests.integration.support import put

BASE = f"bull:{QUEUE}"


async def test_nothing_is_lost_and_nothing_recorded_twice_whatever_is_killed(tmp_path):
    async with open_cluster(tmp_path) as cluster:
        ledger = await run_campaign(cluster, Plan(jobs=300))
    print(f"\n{ledger.table()}")  # noqa: T201  # what this test is for: `pytest -s` shows it
    assert ledger.problems == {}, ledger.table()
    assert ledger.completed == ledger.jobs >= 300
    assert ledger.failed == 0
    for phase in PHASES:
        assert ledger.kills(phase) >= 1, ledger.table()
    assert ledger.server_restarts == 1
    assert len(ledger.strikes) >= len(PHASES)
    # A job that was hit in its run is run again, and one that was hit in its finish is not.
    assert ledger.engine_calls == ledger.jobs + ledger.engine_calls_again
    assert ledger.engine_calls_again >= ledger.jobs_hit("run")


# The ledger itself


@pytest.fixture
def finished(valkey):
    """Three jobs that were completed as they should be."""
    jobs = {put(valkey.client, QUEUE, {}): number for number in range(3)}
    for job_id, number in jobs.items():
        finish(valkey.client, job_id, prompt_of(number))
    return jobs


def finish(client, job_id, answer, *, target="completed"):
    client.lrem(f"{BASE}:wait", 0, job_id)
    client.zadd(f"{BASE}:{target}", {job_id: 1})
    client.hset(
        f"{BASE}:{job_id}", "returnvalue", f'{{"answer": {{"message": {{"content": "{answer}"}}}}}}'
    )
    client.xadd(f"{BASE}:events", {"event": target, "jobId": job_id})


def log_of(*numbers):
    return [{"options": [label_of(number)]} for number in numbers]


def problems_of(client, jobs):
    return take_ledger(client, QUEUE, jobs, engine_log=[]).problems


def test_a_ledger_without_faults_is_clean(valkey, finished):
    ledger = take_ledger(valkey.client, QUEUE, finished, engine_log=log_of(0, 1, 2, 1))
    assert ledger.problems == {}
    assert (ledger.jobs, ledger.completed, ledger.failed) == (3, 3, 0)
    assert (ledger.engine_calls, ledger.engine_calls_again) == (4, 1)


def test_the_ledger_sees_a_job_that_stands_nowhere(valkey, finished):
    job_id = next(iter(finished))
    valkey.client.zrem(f"{BASE}:completed", job_id)
    assert problems_of(valkey.client, finished) == {"lost": [job_id]}


def test_the_ledger_sees_a_job_whose_hash_is_gone(valkey, finished):
    job_id = next(iter(finished))
    valkey.client.delete(f"{BASE}:{job_id}")
    assert problems_of(valkey.client, finished)["lost"] == [job_id]


@pytest.mark.parametrize("second", ["completed", "failed"])
def test_the_ledger_sees_a_second_final_event(valkey, finished, second):
    job_id = next(iter(finished))
    valkey.client.xadd(f"{BASE}:events", {"event": second, "jobId": job_id})
    assert problems_of(valkey.client, finished) == {"recorded twice": [job_id]}


@pytest.mark.parametrize("place", ["failed", "wait"])
def test_the_ledger_sees_a_job_that_stands_in_two_places(valkey, finished, place):
    job_id = next(iter(finished))
    if place == "wait":
        valkey.client.lpush(f"{BASE}:wait", job_id)
    else:
        valkey.client.zadd(f"{BASE}:failed", {job_id: 1})
    assert problems_of(valkey.client, finished) == {"recorded twice": [job_id]}


def test_the_ledger_sees_a_job_that_never_ended(valkey, finished):
    job_id = put(valkey.client, QUEUE, {})
    assert problems_of(valkey.client, {**finished, job_id: 3}) == {"stuck": [job_id]}


def test_the_ledger_sees_a_final_job_without_its_event(valkey, finished):
    job_id = put(valkey.client, QUEUE, {})
    valkey.client.lrem(f"{BASE}:wait", 0, job_id)
    valkey.client.zadd(f"{BASE}:failed", {job_id: 1})
    assert problems_of(valkey.client, {**finished, job_id: 3}) == {"unannounced": [job_id]}


def test_the_ledger_sees_an_answer_to_another_job(valkey, finished):
    job_id = next(iter(finished))
    other = valkey.client.hget(f"{BASE}:{list(finished)[1]}", "returnvalue")
    valkey.client.hset(f"{BASE}:{job_id}", "returnvalue", other)
    assert problems_of(valkey.client, finished) == {"wrong answers": [job_id]}


def test_the_ledger_refuses_a_trimmed_event_stream(valkey, finished):
    valkey.client.xtrim(f"{BASE}:events", maxlen=2, approximate=False)
    with pytest.raises(AssertionError, match="trimmed"):
        problems_of(valkey.client, finished)

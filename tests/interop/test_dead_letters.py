"""Dead letters and the history of attempts as Node sees them."""

from __future__ import annotations

import pytest

from tests.integration.support import PROBE, fields_of, probe, running, state_of
from worker_core.client import JobRef, LetterRetry, open_client
from worker_core.testing.polling import eventually_async

DEAD = f"{PROBE}-dead"
FAILS = {"do": "fail", "text": "no luck"}


@pytest.fixture
async def client(valkey):
    async with open_client(valkey.url) as made:
        yield made


async def letters_of(app):
    return await app.call(DEAD, "getJobs", ["waiting"])


async def fail(valkey, app, **opts):
    """Let a job of Node's fail for good, and return its id."""
    [job_id] = await app.add(PROBE, {"name": "greet", "data": FAILS, "opts": opts})
    async with running(valkey.url, probe(), {"worker": {"id": "w1"}}):
        await eventually_async(lambda: valkey.client.llen(f"bull:{DEAD}:wait"))
    return job_id


async def test_node_reads_a_dead_letter(valkey, app):
    events = await app.listen(DEAD)
    job_id = await fail(valkey, app, attempts=2, removeOnFail=True)
    [letter] = await letters_of(app)
    assert letter["name"] == "greet"
    await events.wait_for("waiting", letter["id"])
    data = letter["data"]
    assert letter["id"] == f"{job_id}-{data['failed_at_ms']}"
    assert {name: data["job"][name] for name in ("id", "queue", "name", "data")} == {
        "id": job_id,
        "queue": PROBE,
        "name": "greet",
        "data": FAILS,
    }
    assert data["job"]["opts"]["attempts"] == 2
    assert data["error"] == {"class": "error", "message": "RuntimeError: no luck"}
    assert [(one["worker"], one["class"], one["error"]) for one in data["attempts"]] == [
        ("w1", "error", "RuntimeError: no luck")
    ] * 2
    counts = await app.call(DEAD, "getJobCounts")
    assert counts["waiting"] == 1


async def test_a_job_with_a_history_is_as_any_other_to_node(valkey, app):
    job_id = await fail(valkey, app, attempts=2)
    assert "wc:history" in fields_of(valkey.client, job_id)
    job = await app.job(PROBE, job_id)
    assert (job["state"], job["failedReason"]) == ("failed", "RuntimeError: no luck")
    assert (job["attemptsMade"], job["attemptsStarted"], len(job["stacktrace"])) == (2, 2, 2)
    # Tried again by hand, by a worker of Node's.
    await app.call(PROBE, "retryJobs", {"state": "failed"})
    await app.work(PROBE)
    await eventually_async(lambda: state_of(valkey.client, job_id) == "completed")
    assert (await app.job(PROBE, job_id))["returnvalue"] == FAILS


async def test_a_job_that_is_put_back_is_what_nodes_own_retry_makes_of_it(valkey, app, client):
    first = await fail(valkey, app, attempts=2)
    valkey.client.delete(f"bull:{DEAD}:wait")
    await app.call(PROBE, "retryJobs", {"state": "failed"})
    by_node = await app.job(PROBE, first)
    await app.call(PROBE, "obliterate", {"force": True})

    second = await fail(valkey, app, attempts=2)
    [letter] = await letters_of(app)
    assert await client.retry_dead_letter(JobRef(letter["id"], DEAD)) is LetterRetry.PUT_BACK
    by_us = await app.job(PROBE, second)
    for name in ("state", "attemptsMade", "attemptsStarted", "failedReason", "finishedOn"):
        assert by_us.get(name) == by_node.get(name), name
    await app.work(PROBE)
    await eventually_async(lambda: state_of(valkey.client, second) == "completed")


async def test_a_job_that_is_added_anew_runs_in_node(valkey, app, client):
    job_id = await fail(valkey, app, attempts=3, removeOnFail=True)
    [letter] = await letters_of(app)
    assert await client.retry_dead_letter(JobRef(letter["id"], DEAD)) is LetterRetry.ADDED
    job = await app.job(PROBE, job_id)
    assert (job["name"], job["state"], job["attemptsMade"]) == ("greet", "waiting", 0)
    await app.work(PROBE)
    await eventually_async(lambda: state_of(valkey.client, job_id) == "completed")
    assert await letters_of(app) == []


async def test_a_worker_of_nodes_may_take_dead_letters(valkey, app):
    await app.work(DEAD, removeOnComplete={"count": 0})
    await app.add(PROBE, {"data": FAILS})
    async with running(valkey.url, probe()):
        await eventually_async(lambda: app.ran)
        await eventually_async(lambda: not valkey.client.hlen(f"bull:{PROBE}:dead:outbox"))
    assert len(app.ran) == 1

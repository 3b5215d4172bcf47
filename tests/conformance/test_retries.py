"""Attempts that fail: which are repeated, after how long, and what is recorded."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.conformance.reference import peer
from tests.conformance.support import BASE, abandon, count_in, processor
from tests.integration.support import PROBE, Ledger, probe, running
from worker_core import BackoffStrategy, DelayJob, Unrecoverable
from worker_core.testing.polling import eventually_async

TOO_MANY_STARTS = "job started more than allowable limit"
"""BullMQ's own words."""
LATE_MS = 250
"""How much later the server may date the event of a delay than the worker counted it from."""


async def failing(request, context):
    raise RuntimeError(f"attempt {context.job.attempt}")


@peer("jitter bounds")
@pytest.mark.parametrize(
    ("backoff", "least", "most"),
    [
        ({"type": "fixed", "delay": 2000, "jitter": 1}, 0, 2000),
        ({"type": "fixed", "delay": 2000, "jitter": 0.5}, 1000, 2000),
        ({"type": "exponential", "delay": 2000, "jitter": 1}, 0, 2000),
        ({"type": "exponential", "delay": 2000, "jitter": 0.5}, 1000, 2000),
    ],
)
async def test_jitter_takes_away_at_most_its_share(valkey, node, backoff, least, most):
    jobs = 25
    async with running(valkey.url, processor(failing)):
        opts = {"attempts": 2, "backoff": backoff}
        ids = await node.add(PROBE, *[{"data": {}, "opts": opts}] * jobs)
        # A short delay may be over, and the job have failed, before the last is looked at.
        await eventually_async(
            lambda: all(valkey.client.hget(f"{BASE}:{job_id}", "atm") for job_id in ids)
        )
        events = await node.listen(PROBE)
        await events.wait_for("delayed", count=jobs)
    delays = [int(line["delay"]) - line["at"] for line in events.of("delayed")[:jobs]]
    assert all(least - LATE_MS <= delay <= most for delay in delays)
    assert max(delays) - min(delays) > (most - least) / 5


@peer("jitter bounds")
async def test_an_exponential_backoff_grows_before_its_jitter(valkey, node):
    """The failed attempt counts: the first pause is the delay itself, the second twice that."""
    async with running(valkey.url, processor(failing)):
        backoff = {"type": "exponential", "delay": 600, "jitter": 0.5}
        ids = await node.add(PROBE, *[{"opts": {"attempts": 3, "backoff": backoff}}] * 10)
        events = await node.listen(PROBE)
        await eventually_async(lambda: count_in(valkey.client, "failed") == len(ids))
        for job_id in ids:
            await events.wait_for("retries-exhausted", job_id)
    pauses = [
        [int(line["delay"]) - line["at"] for line in events.of("delayed", job_id)] for job_id in ids
    ]
    first, second = zip(*pauses, strict=True)
    assert all(300 - LATE_MS <= pause <= 600 for pause in first)
    assert all(600 - LATE_MS <= pause <= 1200 for pause in second)
    assert max(second) > 600


@peer("retries exhausted with attempts=1")
async def test_the_only_attempt_is_told_to_be_the_last(valkey, node):
    ledger = Ledger()
    events = await node.listen(PROBE)
    async with running(valkey.url, probe(ledger)):
        job_id = await node.add_one(PROBE, {"do": "fail", "text": "no luck"}, attempts=1)
        told = await events.wait_for("retries-exhausted", job_id)
    assert told["attemptsMade"] == "1"
    assert ledger.began == [job_id]
    job = await node.job(PROBE, job_id)
    assert (job["state"], job["attemptsMade"]) == ("failed", 1)
    assert events.of("failed", job_id)[0]["failedReason"] == "RuntimeError: no luck"


@peer("unrecoverable skips retries")
async def test_an_unrecoverable_failure_ends_the_attempts(valkey, node):
    async def fails_for_good_the_second_time(request, context):
        if context.job.attempt == 1:
            raise RuntimeError("not yet")
        raise Unrecoverable("never")

    events = await node.listen(PROBE)
    async with running(valkey.url, processor(fails_for_good_the_second_time)):
        job_id = await node.add_one(PROBE, attempts=5, backoff=300)
        failed = await events.wait_for("failed", job_id)
    assert failed["failedReason"] == "never"
    job = await node.job(PROBE, job_id)
    assert (job["state"], job["attemptsMade"]) == ("failed", 2)
    assert job["finishedOn"] - job["timestamp"] >= 300


@peer("unrecoverable skips retries")
async def test_an_error_with_nodes_name_for_it_is_unrecoverable_too(valkey, node):
    class UnrecoverableError(Exception):
        """As BullMQ calls it; libraries bring their own."""

    async def fails(request, context):
        raise UnrecoverableError("never")

    events = await node.listen(PROBE)
    async with running(valkey.url, processor(fails)):
        job_id = await node.add_one(PROBE, attempts=5)
        await events.wait_for("failed", job_id)
    assert (await node.job(PROBE, job_id))["attemptsMade"] == 1


@peer("maxStartedAttempts fails")
async def test_a_job_at_its_last_start_is_not_tried_again(valkey, node):
    events = await node.listen(PROBE)
    settings = {"queue": {"max_started_attempts": 2}}
    async with running(valkey.url, processor(failing), settings):
        job_id = await node.add_one(PROBE, attempts=9)
        await events.wait_for("failed", job_id)
    job = await node.job(PROBE, job_id)
    assert (job["attemptsStarted"], job["attemptsMade"]) == (2, 2)
    assert job["failedReason"] == "RuntimeError: attempt 2"


@peer("maxStartedAttempts fails")
async def test_a_job_beyond_its_starts_fails_unrun(valkey, node):
    """A worker that died had started it once already."""
    ledger = Ledger()
    events = await node.listen(PROBE)
    job_id = await node.add_one(PROBE, attempts=9)
    await abandon(valkey.client, job_id)
    async with running(valkey.url, probe(ledger), {"queue": {"max_started_attempts": 1}}):
        failed = await events.wait_for("failed", job_id)
    assert failed["failedReason"] == TOO_MANY_STARTS
    assert ledger.began == []
    job = await node.job(PROBE, job_id)
    assert (job["attemptsStarted"], job["attemptsMade"]) == (2, 1)


@peer("maxStartedAttempts fails")
async def test_starts_count_though_no_attempt_is_spent(valkey, node):
    """A job that puts itself off again and again has no end of its own."""

    async def puts_itself_off(request, context):
        raise DelayJob(timedelta(milliseconds=200))

    events = await node.listen(PROBE)
    settings = {"queue": {"max_started_attempts": 1}}
    async with running(valkey.url, processor(puts_itself_off), settings):
        job_id = await node.add_one(PROBE)
        failed = await events.wait_for("failed", job_id)
    assert failed["failedReason"] == TOO_MANY_STARTS
    job = await node.job(PROBE, job_id)
    assert (job["attemptsStarted"], job["attemptsMade"]) == (2, 1)
    assert job["finishedOn"] - job["timestamp"] >= 200


def custom(delay):
    """A strategy for `backoff: { type: "custom" }`."""
    return BackoffStrategy("custom", delay)


@peer("custom backoff -1")
async def test_a_strategy_may_say_that_no_further_attempt_is_made(valkey, node):
    """Node's returns -1 for that, ours `None`: a time of less than nothing is none."""
    asked = []

    def never(attempt):
        asked.append((attempt.job.id, attempt.number, str(attempt.error)))

    events = await node.listen(PROBE)
    async with running(valkey.url, processor(failing, backoffs=[custom(never)])):
        job_id = await node.add_one(PROBE, attempts=3, backoff={"type": "custom"})
        await events.wait_for("failed", job_id)
    assert asked == [(job_id, 1, "attempt 1")]
    job = await node.job(PROBE, job_id)
    assert (job["state"], job["attemptsMade"]) == ("failed", 1)
    assert job["failedReason"] == "RuntimeError: attempt 1"


@peer("custom backoff -1")
async def test_a_strategy_says_how_long_to_wait(valkey, node):
    def longer_each_time(attempt):
        return attempt.delay * attempt.number

    events = await node.listen(PROBE)
    async with running(valkey.url, processor(failing, backoffs=[custom(longer_each_time)])):
        job_id = await node.add_one(PROBE, attempts=3, backoff={"type": "custom", "delay": 300})
        await events.wait_for("failed", job_id)
    first, second, third = (line["at"] for line in events.of("active", job_id))
    assert 300 <= second - first < 600
    assert 600 <= third - second < 900


@peer("custom backoff -1")
async def test_a_strategy_that_fails_leaves_no_job_active(valkey, node):
    def broken(attempt):
        raise ZeroDivisionError("a bug")

    events = await node.listen(PROBE)
    async with running(valkey.url, processor(failing, backoffs=[custom(broken)])):
        job_id = await node.add_one(PROBE, attempts=3, backoff={"type": "custom"})
        failed = await events.wait_for("failed", job_id)
    assert "attempt 1" in failed["failedReason"]
    assert "custom" in failed["failedReason"]
    assert (await node.job(PROBE, job_id))["attemptsMade"] == 1

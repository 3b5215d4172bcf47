"""Dead letters in a real queue: what they say, and that each failure has one whatever dies."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import anyio
import pytest

from tests.integration.striking_proxy import Moment, open_striking_proxy
from tests.integration.support import PROBE, Ledger, fields_of, probe, put, running, state_of
from tests.integration.test_settlement import (
    delete_lock,
    refusing,
    remove_job,
    steal_lock,
)
from worker_core import Outcome
from worker_core._bullmq.job import Backoff
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.outbox import OutboxEntry
from worker_core._bullmq.scripts import load_script
from worker_core.client import JobRef, LetterFilter, LetterRetry, open_client
from worker_core.dead_letters import read_dead_letter
from worker_core.testing.polling import eventually_async
from worker_core.testing.proxy import open_chaos_proxy

ECHO = "echo"
HOUR = Backoff("fixed", 3_600_000)
FAILS = {"do": "fail for good", "text": "no luck"}
SHORT = """\
[queue]
lock_duration = "1s"
lock_renew_time = "500ms"
stalled_interval = "300ms"
"""


@pytest.fixture
async def client(valkey):
    async with open_client(valkey.url) as made:
        yield made


def letters(redis, queue=PROBE):
    """The dead letters of a queue as they stand there, the oldest first."""
    ids = [one.decode() for one in redis.lrange(f"bull:{queue}-dead:wait", 0, -1)][::-1]
    found = [read_dead_letter(redis.hget(f"bull:{queue}-dead:{one}", "data")) for one in ids]
    assert None not in found
    return dict(zip(ids, found, strict=True))


def outbox(redis, queue=PROBE):
    return redis.hkeys(QueueKeys("bull", queue).dead_outbox)


async def letter_of(redis, queue=PROBE):
    """Wait for the only letter."""
    await eventually_async(lambda: letters(redis, queue))
    [(letter_id, letter)] = letters(redis, queue).items()
    assert not outbox(redis, queue)
    return letter_id, letter


def entry_of(job_id, **members):
    """What a worker that is dead has left in the outbox."""
    return OutboxEntry(job_id=job_id, name="job", token="gone:1", **members)


# --- What there is of a job that failed for good ---


async def test_a_failed_job_is_kept_with_the_history_of_its_attempts(valkey):
    redis = valkey.client
    data = {"do": "fail", "text": "no luck", "model": "llama3"}
    job_id = put(redis, PROBE, data, attempts=2, delay=timedelta(milliseconds=1))
    began = time.time() * 1000
    async with running(valkey.url, probe(), {"worker": {"id": "w1"}}):
        letter_id, letter = await letter_of(redis)
    assert letter_id == f"{job_id}-{fields_of(redis, job_id)['finishedOn']}"
    assert fields_of(redis, letter_id, f"{PROBE}-dead")["name"] == "job"
    job = letter.job
    assert (job.id, job.queue, job.name, job.data) == (job_id, PROBE, "job", data)
    assert job.opts == {"attempts": 2, "delay": 1}
    assert letter.model == "llama3"
    assert letter.error.error_class == "error"
    assert letter.error.message == fields_of(redis, job_id)["failedReason"]
    assert [one.error for one in letter.attempts] == ["RuntimeError: no luck"] * 2
    assert began <= letter.attempts[0].at_ms <= letter.attempts[1].at_ms == letter.failed_at_ms
    assert {letter.worker, *(one.worker for one in letter.attempts)} == {"w1"}


async def test_only_what_failed_for_good_has_a_letter(valkey, client):
    redis = valkey.client
    ledger = Ledger()
    async with running(valkey.url, probe(ledger)):
        answered = put(redis, PROBE, {"text": "hi"})
        cancelled = put(redis, PROBE, {"do": "hang"})
        retried = put(redis, PROBE, {"do": "fail"}, attempts=2, backoff=HOUR)
        await eventually_async(lambda: len(ledger.began) == 3)
        await client.cancel(JobRef(cancelled, PROBE))
        failed = put(redis, PROBE, FAILS)
        await eventually_async(lambda: len(ledger.outcomes) == 4)
        letter_id, _ = await letter_of(redis)
    assert letter_id.startswith(f"{failed}-")
    assert [state_of(redis, one) for one in (answered, cancelled, retried)] == [
        *("completed", "failed", "delayed")
    ]


async def test_a_job_that_is_removed_as_it_fails_has_its_letter(valkey):
    redis = valkey.client
    async with running(valkey.url, probe()):
        job_id = put(redis, PROBE, FAILS, keep_failed=0)
        letter_id, letter = await letter_of(redis)
    assert letter_id == f"{job_id}-{letter.failed_at_ms}"
    assert not redis.exists(f"bull:{PROBE}:{job_id}")


async def test_a_job_that_stalled_too_often_has_its_letter(valkey):
    redis = valkey.client
    job_id = put(redis, PROBE, {})
    redis.hset(f"bull:{PROBE}:{job_id}", "defa", "job stalled more than allowable limit")
    async with running(valkey.url, probe()):
        _, letter = await letter_of(redis)
    assert letter.error.error_class == letter.attempts[0].error_class == "stalled"


async def test_data_that_is_no_json_is_kept_as_text(valkey):
    async with running(valkey.url, probe()):
        put(valkey.client, PROBE, b'{"text": NaN')
        _, letter = await letter_of(valkey.client)
    assert letter.job.data == '{"text": NaN'
    assert letter.error.error_class == "invalid_request"


async def test_without_dead_letters_only_the_history_is_kept(valkey):
    redis = valkey.client
    async with running(valkey.url, probe(), {"dead_letters": {"enabled": False}}):
        job_id = put(redis, PROBE, FAILS)
        await eventually_async(lambda: state_of(redis, job_id) == "failed")
    assert not redis.exists(f"bull:{PROBE}-dead:wait")
    assert [one["error"] for one in json.loads(fields_of(redis, job_id)["wc:history"])] == [
        "no luck"
    ]


@pytest.mark.parametrize("loss", [delete_lock, steal_lock, remove_job])
async def test_a_job_that_was_lost_has_no_letter(valkey, loss):
    redis, ledger = valkey.client, Ledger()
    async with running(valkey.url, probe(ledger)):
        job_id = put(redis, PROBE, {**FAILS, "seconds": 0.3})
        await eventually_async(lambda: ledger.began)
        loss(redis, job_id)
        await eventually_async(lambda: ledger.outcomes == [(job_id, Outcome.LOST)])
        await eventually_async(lambda: not outbox(redis))
    assert letters(redis) == {}


async def test_a_full_server_is_waited_for_before_a_job_fails_for_good(valkey):
    redis, ledger = valkey.client, Ledger()
    async with running(valkey.url, probe(ledger)):
        job_id = put(redis, PROBE, {**FAILS, "seconds": 0.3})
        await eventually_async(lambda: ledger.began)
        with refusing(redis, "maxmemory", "1mb", "0") as refused:
            await eventually_async(lambda: refused() >= 2)
            assert state_of(redis, job_id) == "active"
        await letter_of(redis)
        assert state_of(redis, job_id) == "failed"


# --- Whatever dies ---


STEPS = {
    "the promise": QueueKeys("bull", ECHO).dead_outbox.encode() + b"\r\n$",
    "the finish": b"$12\r\nfailedReason\r\n",
    "the delivery": load_script("deliverLetter").sha1.encode(),
}
"""What the calls of a failure are known by, in their order."""


@pytest.mark.parametrize("removed", [False, True], ids=["kept", "removed"])
@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("step", STEPS)
async def test_a_worker_killed_around_any_step_leaves_one_letter(
    valkey, start_process, tmp_path, step, moment, removed
):
    redis = valkey.client
    config = tmp_path / "short.toml"
    config.write_text(SHORT)

    async def start(url):
        process = start_process(
            *("--plugins", "echo", "--engine", "none", "--config", str(config)),
            environment={"REDIS_URL": url},
        )
        await anyio.to_thread.run_sync(process.wait_ready)
        return process

    async with open_striking_proxy(valkey.server.port, STEPS[step], moment) as proxy:
        victim = await start(proxy.url)
        proxy.strike = victim.process.kill
        options = {"keep_failed": 0} if removed else {}
        job_id = put(redis, ECHO, {"no": "text"}, **options)
        with anyio.fail_after(20):
            await proxy.struck.wait()
        if step == "the delivery":
            # Moved, both or neither: a letter that somebody takes at once does not come back.
            assert len(letters(redis, ECHO)) + len(outbox(redis, ECHO)) == 1
        await start(valkey.url)

        def is_over():
            ended = not redis.exists(f"bull:{ECHO}:{job_id}") or (
                state_of(redis, job_id, ECHO) == "failed"
            )
            return ended and letters(redis, ECHO) and not outbox(redis, ECHO)

        await eventually_async(is_over, within=20)
    [(letter_id, letter)] = letters(redis, ECHO).items()
    assert (letter.job.id, letter.error.error_class) == (job_id, "invalid_request")
    if not removed:
        assert letter_id == f"{job_id}-{fields_of(redis, job_id, ECHO)['finishedOn']}"


async def test_connections_that_break_all_the_time_lose_and_double_no_letter(valkey):
    redis, ledger = valkey.client, Ledger()
    ids = [put(redis, PROBE, {**FAILS, "seconds": 0.02}) for _ in range(150)]
    async with open_chaos_proxy("127.0.0.1", valkey.server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        settings = {"worker": {"concurrency": 3}}
        async with running(url, probe(ledger), settings), anyio.create_task_group() as tasks:

            async def cut():
                while True:
                    await anyio.sleep(0.03)
                    proxy.cut(reset=True)

            tasks.start_soon(cut)
            await eventually_async(lambda: redis.zcard(f"bull:{PROBE}:failed") == 150, within=60)
            tasks.cancel_scope.cancel()
        await eventually_async(lambda: redis.llen(f"bull:{PROBE}-dead:wait") == 150)
    assert sorted(letter.job.id for letter in letters(redis).values()) == sorted(ids)
    assert not outbox(redis)


async def test_what_a_dead_worker_has_left_is_delivered_by_the_next_at_its_start(valkey):
    redis = valkey.client
    async with running(valkey.url, probe()) as one:
        job_id = put(redis, PROBE, FAILS)
        letter_id, _ = await letter_of(redis)
        await one.stop(within=10)
    # As if it had died between the finish and the delivery.
    left = redis.hget(f"bull:{PROBE}-dead:{letter_id}", "data")
    fields = fields_of(redis, job_id)
    entry = entry_of(
        job_id,
        created_ms=int(fields["timestamp"]),
        worker=fields["pb"],
        at_ms=int(fields["finishedOn"]),
    )
    redis.delete(f"bull:{PROBE}-dead:wait", f"bull:{PROBE}-dead:{letter_id}")
    redis.hset(QueueKeys("bull", PROBE).dead_outbox, entry.field(), left)
    async with running(valkey.url, probe()):
        assert (await letter_of(redis))[0] == letter_id


async def test_an_earlier_run_is_decided_about_before_the_job_is_removed(valkey):
    redis, ledger = valkey.client, Ledger()
    job_id = put(redis, PROBE, {"seconds": 0.3}, keep_completed=0)
    redis.hset(f"bull:{PROBE}:{job_id}", "ats", 1)
    async with running(valkey.url, probe(ledger)):
        # As if its first worker had died just before it would have failed it.
        await eventually_async(lambda: ledger.began)
        created_ms = int(fields_of(redis, job_id)["timestamp"])
        entry = entry_of(job_id, created_ms=created_ms, worker="gone", at_ms=1)
        redis.hset(QueueKeys("bull", PROBE).dead_outbox, entry.field(), "{}")
        await eventually_async(lambda: ledger.outcomes == [(job_id, Outcome.COMPLETED)])
        assert not redis.exists(f"bull:{PROBE}:{job_id}")
        assert not outbox(redis)
    assert letters(redis) == {}


async def test_what_the_server_refuses_does_not_hold_up_the_others(valkey):
    redis = valkey.client
    key = QueueKeys("bull", PROBE).dead_outbox
    refused, gone = (
        entry_of(job_id, created_ms=5, worker="gone", at_ms=7) for job_id in ("refused", "gone")
    )
    redis.set(f"bull:{PROBE}:refused", "no hash")
    redis.hset(key, refused.field(), "{}")
    redis.hset(key, gone.field(), "{}")
    async with running(valkey.url, probe()):
        await eventually_async(lambda: redis.llen(f"bull:{PROBE}-dead:wait") == 1)
    assert redis.lrange(f"bull:{PROBE}-dead:wait", 0, -1) == [b"gone-7"]
    assert outbox(redis) == [refused.field()]


async def test_an_entry_of_another_version_is_left_alone(valkey):
    key = QueueKeys("bull", PROBE).dead_outbox
    valkey.client.hset(key, '{"of": "a version to come"}', "{}")
    async with running(valkey.url, probe()):
        put(valkey.client, PROBE, FAILS)
        await eventually_async(lambda: letters(valkey.client))
    assert valkey.client.hlen(key) == 1


# --- Run again ---


async def fail(valkey, data, **options):
    """Let a job fail for good and return its id and what names its letter."""
    async with running(valkey.url, probe()) as one:
        job_id = put(valkey.client, PROBE, data, **options)
        letter_id, _ = await letter_of(valkey.client)
        await one.stop(within=10)
    return job_id, JobRef(letter_id, f"{PROBE}-dead")


async def test_a_failed_job_is_put_back_as_node_would(valkey, client):
    redis = valkey.client
    job_id, ref = await fail(valkey, {"do": "fail", "text": "no"}, attempts=2)
    assert await client.retry_dead_letter(ref) is LetterRetry.PUT_BACK
    assert state_of(redis, job_id) == "wait"
    fields = fields_of(redis, job_id)
    assert fields["atm"] == "2"
    assert not {"finishedOn", "processedOn", "failedReason"} & fields.keys()
    assert (letters(redis), redis.exists(f"bull:{PROBE}-dead:{ref.id}")) == ({}, 0)
    # One attempt more; its failure is another one, with a letter of its own.
    async with running(valkey.url, probe()):
        letter_id, letter = await letter_of(redis)
    assert letter_id != ref.id
    assert len(letter.attempts) == 3


async def test_a_job_that_is_gone_is_added_anew(valkey, client):
    redis = valkey.client
    options = {"attempts": 2, "priority": 3, "delay": timedelta(milliseconds=20)}
    data = {"do": "fail", "text": "n\u00f6"}
    job_id, ref = await fail(valkey, data, keep_failed=0, **options)
    assert await client.retry_dead_letter(ref) is LetterRetry.ADDED
    assert state_of(redis, job_id) == "prioritized"
    fields = fields_of(redis, job_id)
    assert json.loads(fields["data"]) == data
    assert json.loads(fields["opts"]) == {
        "attempts": 2,
        "priority": 3,
        "removeOnFail": 0,
        "jobId": job_id,
    }
    assert fields["name"] == "job"
    assert "atm" not in fields
    assert letters(redis) == {}


@pytest.mark.parametrize("do", ["wait", "run", "complete", "another"])
async def test_a_job_that_has_not_failed_is_left_alone(valkey, client, do):
    redis = valkey.client
    job_id, ref = await fail(valkey, FAILS)
    base = f"bull:{PROBE}"
    redis.zrem(f"{base}:failed", job_id)
    match do:
        case "wait":
            redis.lpush(f"{base}:wait", job_id)
        case "run":
            redis.lpush(f"{base}:active", job_id)
        case "complete":
            redis.zadd(f"{base}:completed", {job_id: 1})
        case _:
            redis.zadd(f"{base}:failed", {job_id: 1})
            redis.hincrby(f"{base}:{job_id}", "timestamp", 1)
    before = state_of(redis, job_id), fields_of(redis, job_id)
    assert await client.retry_dead_letter(ref) is LetterRetry.THERE
    assert (state_of(redis, job_id), fields_of(redis, job_id)) == before
    assert list(letters(redis)) == [ref.id]


async def test_letters_are_found_by_class_model_and_age(valkey, client):
    redis = valkey.client
    async with running(valkey.url, probe()):
        for data in (FAILS, {"do": "fail", "model": "llama3"}, {"do": 3, "model": "Qwen3:latest"}):
            put(redis, PROBE, data)
        await eventually_async(lambda: len(letters(redis)) == 3)

    async def found(limit=20, **where):
        some = await client.dead_letters(PROBE, where=LetterFilter(**where), limit=limit)
        return [one.letter.job.id for one in some]

    assert sorted(await found()) == ["1", "2", "3"]
    assert len(await found(limit=2)) == 2
    assert await found(error_classes=["error"]) == ["2"]
    assert sorted(await found(error_classes=["error", "unrecoverable"])) == ["1", "2"]
    assert await found(model="llama3:latest") == ["2"]
    assert await found(model="qwen3") == ["3"]
    assert await found(older_than=timedelta(hours=1)) == []
    assert len(await found(newer_than=timedelta(hours=1))) == 3


async def test_a_letter_is_removed_and_what_is_not_there_is_said(valkey, client):
    job_id, ref = await fail(valkey, FAILS)
    assert (await client.dead_letter(ref)).job.id == job_id
    assert await client.remove(ref)
    assert not await client.remove(ref)
    assert await client.dead_letter(ref) is None
    assert await client.retry_dead_letter(ref) is LetterRetry.UNKNOWN
    assert state_of(valkey.client, job_id) == "failed"

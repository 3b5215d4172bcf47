"""Token streams when workers die, stop, lose their lock or their Redis."""

from __future__ import annotations

import json
from datetime import timedelta

import anyio
import attrs
import pytest

from tests.integration.stream_support import (
    TALK,
    end_of,
    entries,
    events,
    gather,
    kinds_of,
    talk,
    text_of,
)
from tests.integration.support import CHAT, chat, fields_of, put, running, state_of
from worker_core import Outcome
from worker_core.client import (
    Backoff,
    JobRef,
    TokenChunk,
    TokenRestart,
    TokenStop,
    open_client,
)
from worker_core.redis import Endpoint
from worker_core.testing.polling import eventually_async
from worker_core.testing.proxy import open_chaos_proxy

WORDS = "one two three four five six seven eight nine ten"
POLL = timedelta(milliseconds=200)
SHORT_LOCKS = """\
[queue]
lock_duration = '900ms'
lock_renew_time = '450ms'
stalled_interval = '300ms'
drain_delay = '300ms'
"""


def proxied(valkey):
    endpoint = Endpoint.from_url(valkey.url)
    return open_chaos_proxy(endpoint.host, endpoint.port)


def url_of(proxy):
    return f"redis://{proxy.host}:{proxy.port}"


async def wait_for_chunks(valkey, job_id, queue=TALK, *, count=1):
    def there():
        return events(valkey.client, job_id, queue).count("chunk") >= count

    await eventually_async(there, what=f"{count} chunks of job {job_id}")


async def test_a_killed_worker_leaves_no_end_and_the_next_one_begins_anew(
    valkey, start_process, fake_engine, tmp_path
):
    fake_engine.behaviour = attrs.evolve(fake_engine.behaviour, token_seconds=0.2, parallel=4)
    file = tmp_path / "worker.toml"
    file.write_text(SHORT_LOCKS)

    def start():
        return start_process(
            *("--plugins", "chat", "--config", str(file)),
            environment={"OLLAMA_BASE_URL": fake_engine.url},
        )

    first = start()
    job_id = put(valkey.client, CHAT, {**chat(WORDS), "stream": True})
    items = []
    async with open_client(valkey.url, poll=POLL) as client, anyio.create_task_group() as tasks:

        async def read():
            items.extend(await gather(client.tokens(JobRef(job_id, CHAT))))

        tasks.start_soon(read)
        await wait_for_chunks(valkey, job_id, CHAT, count=3)
        first.kill()
        cut = events(valkey.client, job_id, CHAT)
        assert cut == ["begin", *["chunk"] * (len(cut) - 1)]
        start()
    assert kinds_of(items) == ["chunk", "restart", "chunk", "end"]
    [restart] = [item for item in items if isinstance(item, TokenRestart)]
    assert text_of(items[items.index(restart) :]) == WORDS
    assert end_of(items).outcome is Outcome.COMPLETED


async def test_a_job_that_stalls_too_often_ends_its_stream_though_nobody_runs_it(valkey):
    job_id = put(valkey.client, TALK, {"pieces": ["never"]})
    key = f"bull:{TALK}:{job_id}:tokens"
    begin = {"event": "begin", "index": 0, "attempt": 1}
    valkey.client.xadd(key, {"data": json.dumps(begin)})
    stalled = {"defa": "job stalled more than allowable limit", "ats": 1, "stc": 2}
    valkey.client.hset(f"bull:{TALK}:{job_id}", mapping=stalled)
    silent = put(valkey.client, TALK, {"pieces": ["never"]})
    valkey.client.hset(f"bull:{TALK}:{silent}", mapping=stalled)
    async with running(valkey.url, talk()):
        await eventually_async(lambda: valkey.client.zcard(f"bull:{TALK}:failed") == 2)
    assert events(valkey.client, job_id) == ["begin", "end"]
    [_, (_, end)] = entries(valkey.client, job_id)
    assert end["reason"] == "job stalled more than allowable limit"
    # Nobody waits for a stream that there has never been.
    assert not valkey.client.exists(f"bull:{TALK}:{silent}:tokens")


async def test_who_has_lost_the_lock_writes_nothing_more(valkey):
    silent = []
    async with running(valkey.url, talk(silent)):
        job_id = put(valkey.client, TALK, {"pieces": ["x"], "times": 40, "pause": 0.02})
        await wait_for_chunks(valkey, job_id, count=2)
        # The worker cannot know of it before it renews the lock.
        valkey.client.set(f"bull:{TALK}:{job_id}:lock", "another:1")
        written = len(entries(valkey.client, job_id))
        await eventually_async(lambda: silent)
    # All is sent by now, the end of the run too.
    assert state_of(valkey.client, job_id, TALK) == "active"
    assert len(entries(valkey.client, job_id)) == written


async def test_a_worker_that_stops_says_that_the_job_goes_on_elsewhere(valkey):
    data = {"pieces": ["a", "b"], "hang": True}
    items = []
    async with open_client(valkey.url, poll=POLL) as client, anyio.create_task_group() as tasks:
        async with running(valkey.url, talk(), {"worker": {"grace": "100ms"}}) as worker:
            job_id = put(valkey.client, TALK, data)

            async def read():
                items.extend(await gather(client.tokens(JobRef(job_id, TALK))))

            tasks.start_soon(read)
            await wait_for_chunks(valkey, job_id)
            await worker.stop(within=10)
        assert events(valkey.client, job_id)[-1] == "stop"
        valkey.client.hset(f"bull:{TALK}:{job_id}", "data", json.dumps({"pieces": ["c"]}))
        async with running(valkey.url, talk()):
            await eventually_async(lambda: items)
    assert kinds_of(items) == ["chunk", "stop", "restart", "chunk", "end"]
    [stop] = [item for item in items if isinstance(item, TokenStop)]
    assert (stop.outcome, stop.reason) == (Outcome.RETURNED, None)
    # No attempt was spent.
    [restart] = [item for item in items if isinstance(item, TokenRestart)]
    assert restart.attempt == 1


async def test_what_is_put_out_in_an_outage_comes_after_it_and_fills_no_link(valkey):
    async with proxied(valkey) as proxy, running(url_of(proxy), talk()):
        pieces = [f"{number} " for number in range(60)]
        job_id = put(valkey.client, TALK, {"pieces": pieces, "pause": 0.02})
        await wait_for_chunks(valkey, job_id, count=2)
        proxy.refusing = True
        proxy.cut()
        await anyio.sleep(0.4)
        proxy.refusing = False
        await eventually_async(lambda: events(valkey.client, job_id)[-1] == "end")
    found = [entry for _, entry in entries(valkey.client, job_id)]
    said = "".join(entry.get("content", "") for entry in found)
    # A posted entry that was on its way when the connection broke may be lost: its index is.
    lost = found[-1]["index"] - len(found) + 1
    assert lost <= 1
    if not lost:
        assert said == "".join(pieces)
    # What the job said meanwhile is one entry, not one for each moment.
    assert max(len(entry.get("content", "").split()) for entry in found) >= 10


async def test_a_reader_waits_out_an_outage(valkey):
    items = []
    async with (
        proxied(valkey) as proxy,
        open_client(url_of(proxy), poll=POLL) as client,
        running(valkey.url, talk()),
        anyio.create_task_group() as tasks,
    ):
        job_id = put(valkey.client, TALK, {"pieces": ["a", "b", "c"], "times": 10, "pause": 0.04})

        async def read():
            items.extend(await gather(client.tokens(JobRef(job_id, TALK))))

        tasks.start_soon(read)
        await wait_for_chunks(valkey, job_id, count=2)
        proxy.refusing = True
        proxy.cut()
        await wait_for_chunks(valkey, job_id, count=6)
        proxy.refusing = False
    assert kinds_of(items) == ["chunk", "end"]
    assert text_of(items) == "abc" * 10


async def test_half_characters_meet_or_become_a_replacement(valkey):
    async with running(valkey.url, talk()):
        codes = [0x61, 0xD83D, 0xDE00, 0xDE00, 0xD83D]
        job_id = put(valkey.client, TALK, {"codes": codes, "pause": 0.06})
        await eventually_async(lambda: events(valkey.client, job_id)[-1:] == ["end"])
    said = [e["content"] for _, e in entries(valkey.client, job_id) if e["event"] == "chunk"]
    assert said == ["a", "😀", "\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}"]


async def test_the_stream_of_an_earlier_job_of_the_same_id_is_gone(valkey):
    async with running(valkey.url, talk()):
        for word in ("old", "new"):
            put(valkey.client, TALK, {"pieces": [word]}, job_id="same", keep_completed=0)
            await eventually_async(lambda: not valkey.client.exists(f"bull:{TALK}:same"))
    said = [entry.get("content") for _, entry in entries(valkey.client, "same")]
    assert said == [None, "new", None]


async def test_a_job_that_fails_for_good_ends_its_stream_with_the_reason(valkey):
    async with running(valkey.url, talk()), open_client(valkey.url, poll=POLL) as client:
        data = {"pieces": ["a"], "fault": "out of words"}
        job_id = put(valkey.client, TALK, data, attempts=2)
        items = await gather(client.tokens(JobRef(job_id, TALK)))
    assert kinds_of(items) == ["chunk", "stop", "restart", "chunk", "end"]
    end = end_of(items)
    assert (end.outcome, end.reason) == (Outcome.FAILED, "RuntimeError: out of words")
    assert fields_of(valkey.client, job_id, TALK)["failedReason"] == end.reason


async def test_an_end_of_an_earlier_job_of_the_same_id_is_not_that_of_this_one(valkey):
    """What was said before is discarded, as at any restart."""
    items = []
    ref = JobRef("same", TALK)
    async with running(valkey.url, talk()):
        put(valkey.client, TALK, {"pieces": ["old"]}, job_id="same", keep_completed=0)
        await eventually_async(lambda: events(valkey.client, "same")[-1:] == ["end"])
        await eventually_async(lambda: not valkey.client.exists(f"bull:{TALK}:same"))
    put(valkey.client, TALK, {"pieces": ["new"]}, job_id="same", keep_completed=0)
    async with open_client(valkey.url, poll=POLL) as client, anyio.create_task_group() as tasks:

        async def read():
            items.extend(await gather(client.tokens(ref)))

        tasks.start_soon(read)
        await eventually_async(lambda: any("b" in c["flags"] for c in valkey.client.client_list()))
        async with running(valkey.url, talk()):
            await eventually_async(lambda: items)
    assert kinds_of(items) == ["chunk", "restart", "chunk", "end"]
    assert [item.content for item in items if isinstance(item, TokenChunk)] == ["old", "new"]


async def test_a_job_that_is_tried_again_by_hand_has_not_come_to_its_end(valkey):
    redis, ref, items = valkey.client, JobRef("again", TALK), []
    async with running(valkey.url, talk()):
        put(redis, TALK, {"pieces": ["a"], "fault": "no luck"}, job_id="again")
        await eventually_async(lambda: state_of(redis, "again", TALK) == "failed")
    # As Node's `job.retry()` does, with better data.
    redis.zrem(f"bull:{TALK}:failed", "again")
    redis.hdel(f"bull:{TALK}:again", "finishedOn", "failedReason")
    redis.hset(f"bull:{TALK}:again", "data", '{"pieces": ["b"]}')
    redis.lpush(f"bull:{TALK}:wait", "again")
    async with open_client(valkey.url, poll=POLL) as client, anyio.create_task_group() as tasks:

        async def read():
            items.extend(await gather(client.tokens(ref)))

        tasks.start_soon(read)
        await eventually_async(lambda: any("b" in c["flags"] for c in redis.client_list()))
        async with running(valkey.url, talk()):
            await eventually_async(lambda: items)
    assert kinds_of(items) == ["chunk", "restart", "chunk", "end"]
    assert end_of(items).outcome is Outcome.COMPLETED


@pytest.mark.parametrize("outcome", ["completed", "failed"])
async def test_an_end_that_is_not_the_jobs_does_not_stand_for_it(valkey, outcome):
    """An earlier job of this id streamed; this one ends otherwise, and never began to."""
    redis = valkey.client
    entry = {"event": "end", "index": 0, "outcome": outcome}
    redis.xadd(f"bull:{TALK}:same:tokens", {"data": json.dumps(entry)})
    data = {"fault": "no"} if outcome == "completed" else {}
    put(redis, TALK, data, job_id="same")
    async with running(valkey.url, talk()), open_client(valkey.url, poll=POLL) as client:
        [end] = await gather(client.tokens(JobRef("same", TALK)))
    now = Outcome.FAILED if data else Outcome.COMPLETED
    assert (end.id, end.outcome) == (None, now)


async def test_a_run_that_fails_before_it_puts_anything_out_ends_the_stream_of_the_one_before(
    valkey,
):
    async with running(valkey.url, talk()):
        data = {"pieces": ["a"], "fault": "no"}
        job_id = put(valkey.client, TALK, data, attempts=2, backoff=Backoff("fixed", 400))
        await eventually_async(lambda: events(valkey.client, job_id)[-1:] == ["stop"])
        valkey.client.hset(f"bull:{TALK}:{job_id}", "data", '{"fault": "no words"}')
        await eventually_async(lambda: state_of(valkey.client, job_id, TALK) == "failed")
    assert events(valkey.client, job_id) == ["begin", "chunk", "stop", "end"]
    [*_, (_, end)] = entries(valkey.client, job_id)
    assert (end["outcome"], end["reason"]) == ("failed", "RuntimeError: no words")


async def test_an_end_that_is_lost_with_the_connection_is_written_again_with_the_outcome(valkey):
    """The outcome is written until it is, and readers of the stream may know nothing else."""
    silent = []
    async with proxied(valkey) as proxy, running(url_of(proxy), talk(silent)):
        job_id = put(valkey.client, TALK, {"pieces": ["a"], "pause": 0.3})
        await wait_for_chunks(valkey, job_id)
        proxy.blackhole()
        await eventually_async(lambda: silent)
        await anyio.sleep(0.1)  # the outcome is on its way, and no sign tells of that
        proxy.cut(reset=True)
        proxy.restore()
        await eventually_async(lambda: state_of(valkey.client, job_id, TALK) == "completed")
    assert events(valkey.client, job_id) == ["begin", "chunk", "end"]
    assert [entry["index"] for _, entry in entries(valkey.client, job_id)] == [0, 1, 2]

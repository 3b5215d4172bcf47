"""Token streams: written by a worker as the engine generates, read live, late and again."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta

import anyio
import attrs
import pytest

from tests.integration.stream_support import (
    SOON,
    TALK,
    end_by_hand,
    end_of,
    entries,
    events,
    gather,
    kinds_of,
    talk,
    text_of,
)
from tests.integration.support import CHAT, chat, put, running, state_of
from worker_core import Outcome
from worker_core._bullmq.scripts import load_script
from worker_core.client import (
    JobGone,
    JobRef,
    NotStreamed,
    ResultTimeout,
    SyncClient,
    TokenChunk,
    TokenEnd,
    TokenRestart,
    TokenStop,
    open_client,
)
from worker_core.testing.fake_engine import FaultAction, ScriptedFault
from worker_core.testing.polling import eventually_async

WORDS = "one two three four five six seven eight nine ten"
POLL = timedelta(milliseconds=200)


def chat_settings(engine, **chat):
    return {
        "worker": {"plugins": ["chat"]},
        "plugins": {"ollama": {"base_url": engine.url}, "chat": chat},
    }


def streamed(text, **more):
    return {**chat(text), "stream": True, **more}


async def test_chunks_come_while_the_engine_generates(valkey, start_worker, fake_engine):
    fake_engine.behaviour = attrs.evolve(fake_engine.behaviour, token_seconds=0.08)
    await start_worker(chat_settings(fake_engine))
    async with open_client(valkey.url) as client:
        ref = await client.submit("chat", streamed(WORDS))
        items, states = [], []
        async for item in client.tokens(ref, timeout=SOON):
            items.append(item)
            states.append(state_of(valkey.client, ref.id, CHAT))
        result = await client.result(ref, timeout=SOON)
    assert states.count("active") >= 8
    assert kinds_of(items) == ["chunk", "end"]
    assert [item.index for item in items[:-1]] == list(range(1, len(items)))
    assert text_of(items) == result.text == WORDS
    assert items[-1].outcome is Outcome.COMPLETED
    # What a chat answers is the same whether it streams or not.
    assert result.warnings == ()
    assert result.usage.completion_tokens == 10


async def test_the_stream_has_its_end_when_the_job_has_its_own(valkey, start_worker, fake_engine):
    await start_worker(chat_settings(fake_engine))
    async with open_client(valkey.url) as client:
        for _ in range(20):
            ref = await client.submit("chat", streamed(WORDS))
            await client.result(ref, timeout=SOON)
            assert events(valkey.client, ref.id, CHAT)[-1] == "end"


async def test_thinking_and_tool_calls_are_chunks_too(valkey, start_worker, fake_engine):
    await start_worker(chat_settings(fake_engine))
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    data = streamed("the weather please", model="qwen3", tools=[tool])
    async with open_client(valkey.url) as client:
        ref = await client.submit("chat", data)
        items = await gather(client.tokens(ref))
        message = (await client.result(ref, timeout=SOON)).answer["message"]
    chunks = [item for item in items if isinstance(item, TokenChunk)]
    assert "".join(chunk.thinking for chunk in chunks) == message["thinking"]
    calls = [call for chunk in chunks for call in chunk.tool_calls]
    assert calls == message["tool_calls"]
    assert calls[0]["function"]["name"] == "weather"


async def test_a_late_reader_and_one_who_resumes_read_the_same(valkey, start_worker, fake_engine):
    fake_engine.behaviour = attrs.evolve(fake_engine.behaviour, token_seconds=0.06)
    await start_worker(chat_settings(fake_engine))
    async with open_client(valkey.url) as client:
        ref = await client.submit("chat", streamed(WORDS))
        live = await gather(client.tokens(ref))
        assert await gather(client.tokens(ref)) == live
        for number, item in enumerate(live[:-1]):
            assert await gather(client.tokens(ref, after=item.id)) == live[number + 1 :]
        # All of it was read; the queue tells how it ended.
        rest = await gather(client.tokens(ref, after=live[-1].id))
    assert rest == [TokenEnd(id=None, outcome=Outcome.COMPLETED)]
    with SyncClient(valkey.url) as plain:
        assert await anyio.to_thread.run_sync(lambda: list(plain.tokens(ref))) == live


async def test_a_reader_may_come_before_the_job_runs(valkey, start_worker, fake_engine):
    seen = []
    async with open_client(valkey.url, poll=POLL) as client, anyio.create_task_group() as tasks:
        ref = await client.submit("chat", streamed(WORDS))

        async def read():
            seen.extend(await gather(client.tokens(ref)))

        tasks.start_soon(read)
        await eventually_async(lambda: any("b" in c["flags"] for c in valkey.client.client_list()))
        await start_worker(chat_settings(fake_engine))
    assert text_of(seen) == WORDS
    assert end_of(seen).id is not None


async def test_a_retry_says_that_it_begins_anew(valkey, start_worker, fake_engine):
    fake_engine.script(ScriptedFault(action=FaultAction.ERROR_LINE, contains="one", after_chunks=3))
    fake_engine.behaviour = attrs.evolve(fake_engine.behaviour, token_seconds=0.06)
    await start_worker(chat_settings(fake_engine))
    job_id = put(valkey.client, CHAT, streamed(WORDS), attempts=2)
    async with open_client(valkey.url) as client:
        items = await gather(client.tokens(JobRef(job_id, CHAT)))
    assert kinds_of(items) == ["chunk", "stop", "restart", "chunk", "end"]
    [stop] = [item for item in items if isinstance(item, TokenStop)]
    assert stop.outcome is Outcome.RETRIED
    assert stop.reason.startswith("crashed: ")
    [restart] = [item for item in items if isinstance(item, TokenRestart)]
    assert restart.attempt == 2
    at = items.index(restart)
    assert text_of(items[:at]) == "one two three"
    assert text_of(items[at:]) == WORDS
    indexes = [entry["index"] for _, entry in entries(valkey.client, job_id, CHAT)]
    again = indexes.index(0, 1)
    assert indexes == [*range(again), *range(len(indexes) - again)]


async def test_a_call_that_is_made_again_before_its_first_token_says_nothing_twice(
    valkey, start_worker, fake_engine
):
    fault = ScriptedFault(action=FaultAction.STATUS, status=503, path="/api/chat", contains="one")
    fake_engine.script(fault)
    await start_worker(chat_settings(fake_engine))
    async with open_client(valkey.url) as client:
        ref = await client.submit("chat", streamed(WORDS))
        items = await gather(client.tokens(ref))
    assert len([one for one in fake_engine.log.select("/api/chat") if one.inputs]) == 2
    assert kinds_of(items) == ["chunk", "end"]
    assert text_of(items) == WORDS


async def test_a_failure_ends_the_stream_with_its_reason(valkey, start_worker, fake_engine):
    await start_worker(chat_settings(fake_engine, allowed_models=["llama3"]))
    async with open_client(valkey.url) as client:
        missing = await client.submit("chat", streamed("hi", model="nope"))
        end = end_of(await gather(client.tokens(missing)))
        assert (end.outcome, end.id is None) == (Outcome.FAILED, False)
        assert "not allowed" in end.reason
        # It never came to streaming: its data could not be read.
        wrong = await client.submit("chat", streamed("hi", messages=[]))
        end = end_of(await gather(client.tokens(wrong)))
        assert (end.outcome, end.id) == (Outcome.FAILED, None)
        assert "messages" in end.reason


async def test_what_was_never_streamed_is_said_and_not_waited_for(
    valkey, start_worker, fake_engine
):
    await start_worker(chat_settings(fake_engine))
    async with open_client(valkey.url, poll=POLL) as client:
        ref = await client.submit("chat", chat(WORDS))
        with pytest.raises(NotStreamed, match="stream: true"):
            await gather(client.tokens(ref))
        # Its stream has expired.
        ref = await client.submit("chat", streamed(WORDS))
        live = await gather(client.tokens(ref))
        valkey.client.delete(f"bull:{CHAT}:{ref.id}:tokens")
        with pytest.raises(NotStreamed, match="stream_ttl"):
            await gather(client.tokens(ref))
        assert end_of(await gather(client.tokens(ref, after=live[0].id))).id is None
        with pytest.raises(JobGone):
            await gather(client.tokens(JobRef("nobody", CHAT)))
    with SyncClient(valkey.url, poll=POLL) as plain, pytest.raises(JobGone):
        await anyio.to_thread.run_sync(lambda: list(plain.tokens(JobRef("nobody", CHAT))))


async def test_a_reader_waits_no_longer_than_it_wants_to(valkey):
    job_id = put(valkey.client, CHAT, streamed(WORDS))
    ref, short = JobRef(job_id, CHAT), timedelta(milliseconds=100)
    async with open_client(valkey.url) as client:
        with pytest.raises(ResultTimeout):
            await gather(client.tokens(ref, timeout=short))
        async with client.tokens(ref) as tokens:
            with anyio.move_on_after(0.1) as waiting:
                await anext(tokens)
            assert waiting.cancelled_caught
            # Nothing is lost by that.
            valkey.client.xadd(f"bull:{CHAT}:{job_id}:tokens", chunk(1, "hi"))
            assert (await anext(tokens)).content == "hi"
    with SyncClient(valkey.url) as plain, pytest.raises(ResultTimeout):
        await anyio.to_thread.run_sync(lambda: list(plain.tokens(ref, timeout=short)))


async def test_readers_leave_no_connection_whether_they_come_to_the_end_or_not(valkey):
    job_id = put(valkey.client, CHAT, streamed(WORDS))
    key = f"bull:{CHAT}:{job_id}:tokens"
    valkey.client.xadd(key, chunk(1, "hi"))
    outside = len(valkey.client.client_list())
    async with open_client(valkey.url) as client:
        alone = len(valkey.client.client_list())
        left = client.tokens(JobRef(job_id, CHAT))
        assert (await anext(left)).content == "hi"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(left.__anext__)
            await eventually_async(lambda: len(valkey.client.client_list()) == alone + 1)
            valkey.client.xadd(key, chunk(2, "there"))
        assert len(valkey.client.client_list()) == alone + 1
        valkey.client.xadd(key, {"data": '{"event": "end", "index": 3, "outcome": "completed"}'})
        end_by_hand(valkey.client, job_id, CHAT)
        ended = client.tokens(JobRef(job_id, CHAT))
        await gather(ended)
        await eventually_async(lambda: len(valkey.client.client_list()) == alone + 1)
        with pytest.raises(StopAsyncIteration):
            await anext(ended)
    # Kept here, so that nothing closes it but the client.
    assert left is not None
    await eventually_async(lambda: len(valkey.client.client_list()) == outside)


async def test_what_is_missing_is_counted_and_what_is_unknown_is_passed_over(valkey):
    job_id = put(valkey.client, CHAT, streamed(WORDS))
    key = f"bull:{CHAT}:{job_id}:tokens"
    for fields in (
        {"data": '{"event": "begin", "index": 0, "attempt": 1}'},
        chunk(1, "a"),
        {"data": '{"event": "applause", "index": 2}'},
        {"other": "thing"},
        {"data": "not json"},
        chunk(5, "b"),
        {"data": '{"event": "end", "index": 6, "outcome": "abducted", "reason": "?"}'},
    ):
        valkey.client.xadd(key, fields)
    end_by_hand(valkey.client, job_id, CHAT, "?")
    async with open_client(valkey.url) as client:
        one, other, end = await gather(client.tokens(JobRef(job_id, CHAT)))
    assert (one.missing, other.missing) == (0, 3)
    assert (end.outcome, end.reason) == (Outcome.FAILED, "?")


async def test_a_job_that_was_retried_by_hand_is_read_to_its_last_end(valkey):
    job_id = put(valkey.client, CHAT, streamed(WORDS))
    for data in (
        {"event": "begin", "index": 0, "attempt": 1},
        {"event": "end", "index": 1, "outcome": "failed", "reason": "no luck"},
        {"event": "begin", "index": 0, "attempt": 2},
        {"event": "chunk", "index": 1, "content": "luck"},
        {"event": "end", "index": 2, "outcome": "completed"},
    ):
        valkey.client.xadd(f"bull:{CHAT}:{job_id}:tokens", {"data": json.dumps(data)})
    end_by_hand(valkey.client, job_id, CHAT)
    async with open_client(valkey.url) as client:
        items = await gather(client.tokens(JobRef(job_id, CHAT)))
    assert kinds_of(items) == ["restart", "chunk", "end"]
    assert end_of(items).outcome is Outcome.COMPLETED


async def test_fifty_streams_at_once_keep_to_twenty_entries_a_second(valkey):
    async with running(valkey.url, talk()):
        data = {"pieces": ["x"], "times": 250, "pause": 0.004}
        ids = [put(valkey.client, TALK, data) for _ in range(50)]
        await eventually_async(
            lambda: valkey.client.zcard(f"bull:{TALK}:completed") == 50, within=30
        )
    for job_id in ids:
        found = entries(valkey.client, job_id)
        assert "".join(entry.get("content", "") for _, entry in found) == "x" * 250
        chunks = [at for at, entry in found if entry["event"] == "chunk"]
        # The last one goes with the end; the server's clock counts whole milliseconds.
        spaces = [after - before for before, after in itertools.pairwise(chunks[:-1])]
        assert len(chunks) > 5
        # A busy loop sends late, never early: over any ten of them it evens out.
        for first in range(len(spaces) - 9):
            assert sum(spaces[first : first + 10]) >= 10 * 50 - 25


async def test_a_stream_expires_and_its_time_runs_from_its_last_entry(valkey):
    settings = {"results": {"stream_ttl": "1500ms"}}
    async with running(valkey.url, talk(), settings):
        job_id = put(valkey.client, TALK, {"pieces": ["x"], "times": 20, "pause": 0.1})
        await eventually_async(lambda: events(valkey.client, job_id)[-1:] == ["end"])
    key = f"bull:{TALK}:{job_id}:tokens"
    assert 0 < valkey.client.pttl(key) <= 1500
    await eventually_async(lambda: not valkey.client.exists(key), within=3)


async def test_a_job_that_does_not_stream_costs_what_it_did(valkey, start_worker, fake_engine):
    await start_worker(chat_settings(fake_engine))
    async with open_client(valkey.url) as client:
        await client.result(await client.submit("chat", chat("warm up")), timeout=SOON)
        with valkey.client.monitor() as monitor:
            commands = monitor.listen()
            ref = await client.submit("chat", chat(WORDS))
            await client.result(ref, timeout=SOON)
            valkey.client.echo("enough")
            seen = list(
                itertools.takewhile(
                    lambda text: "enough" not in text, (one["command"] for one in commands)
                )
            )
    assert any("EVALSHA" in command for command in seen)
    assert not any(":tokens" in command for command in seen)
    assert not any(load_script("addEntry").sha1 in command for command in seen)


def chunk(index, content):
    return {"data": json.dumps({"event": "chunk", "index": index, "content": content})}

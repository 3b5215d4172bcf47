"""The async client against a real server and real workers."""

from __future__ import annotations

import json
from datetime import timedelta

import anyio
import attrs
import pytest

from worker_core.client import (
    AddOptions,
    Backoff,
    JobFailed,
    JobGone,
    JobRef,
    JobState,
    ResultExpired,
    ResultTimeout,
    flows,
    open_client,
    watching,
)
from worker_core.errors import RedisUnavailable
from worker_core.testing.polling import eventually_async

ECHO = {"worker": {"plugins": ["echo"], "engine": "none"}}
SOON = timedelta(seconds=10)


def chat(engine):
    return {
        "worker": {"plugins": ["chat"], "engine": "ollama"},
        "plugins": {"ollama": {"base_url": engine.url}},
    }


def question(text, **more):
    return {"model": "llama3", "messages": [{"role": "user", "content": text}], **more}


async def test_a_result_is_the_envelope(valkey, start_worker):
    await start_worker({**ECHO, "worker": {**ECHO["worker"], "id": "w1"}})
    async with open_client(valkey.url) as client:
        ref = await client.submit("echo", {"text": "hi", "times": 2}, queue="echo")
        result = await client.result(ref, timeout=SOON)
    assert (result.type, result.answer, result.text) == ("echo", "hi hi", "hi hi")
    assert (result.attempt, result.worker, result.fallback) == (1, "w1", None)
    assert result.timings.total_ms >= 0
    assert result.warnings == ()


async def test_a_chat_goes_to_its_own_queue_and_its_answer_comes_with_its_use(
    valkey, start_worker, fake_engine
):
    await start_worker(chat(fake_engine))
    progress = []
    async with open_client(valkey.url) as client:
        ref = await client.submit("chat", question("one two three"))
        result = await client.result(ref, timeout=SOON, on_progress=progress.append)
    assert ref.queue == "llm-chat"
    assert all("phase" in one for one in progress)
    assert result.text == "one two three"
    assert result.model.asked == "llama3"
    assert result.usage.total_tokens == result.usage.prompt_tokens + result.usage.completion_tokens
    assert result.usage.completion_tokens > 0


async def test_progress_is_passed_on(valkey):
    async with open_client(valkey.url) as client, anyio.create_task_group() as tasks:
        ref = await client.submit("echo", None, queue="echo")
        seen = []

        async def wait():
            await client.result(ref, timeout=SOON, on_progress=seen.append)

        tasks.start_soon(wait)
        await client_listens(valkey)
        for value in (b'{"tokens": 1}', b"not json", b"2"):
            valkey.client.xadd("bull:echo:events", event("progress", ref, data=value))
        await eventually_async(lambda: len(seen) == 2)
        assert seen == [{"tokens": 1}, 2]
        tasks.cancel_scope.cancel()


async def test_a_failed_job_raises_its_reason_and_traces(valkey, start_worker):
    await start_worker(ECHO)
    async with open_client(valkey.url) as client:
        ref = await client.submit("echo", {"text": 3}, queue="echo")
        with pytest.raises(JobFailed, match="text: expected text, found a number") as caught:
            await client.result(ref, timeout=SOON)
    assert caught.value.attempts == 1
    assert len(caught.value.stacktrace) == 1
    assert "InvalidRequest" in caught.value.stacktrace[0]


async def test_a_job_that_is_removed_when_it_fails_raises_its_reason(valkey, start_worker):
    async with open_client(valkey.url) as client:
        ref = await client.submit("echo", {}, queue="echo", options=AddOptions(keep_failed=0))
        await start_worker(ECHO)
        with pytest.raises(JobFailed, match="text: missing") as caught:
            await client.result(ref, timeout=SOON)
    assert caught.value.attempts is None


async def test_two_wait_for_one_job_and_one_reader_serves_them(valkey, start_worker):
    results = {}
    async with open_client(valkey.url) as client:
        first = await client.submit("echo", {"text": "a"}, queue="echo")
        second = await client.submit("echo", {"text": "b"}, queue="echo")

        async def wait(name, ref):
            results[name] = (await client.result(ref, timeout=SOON)).answer

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "one", first)
            tasks.start_soon(wait, "two", first)
            tasks.start_soon(wait, "three", second)
            await client_listens(valkey)
            assert len(readers(valkey)) == 1
            await start_worker(ECHO)
    assert results == {"one": "a", "two": "a", "three": "b"}


async def test_the_end_is_heard_long_before_it_would_be_asked_for(valkey, start_worker):
    async with open_client(valkey.url, poll=timedelta(hours=1)) as client:
        ref = await client.submit("echo", {"text": "a"}, queue="echo")
        async with anyio.create_task_group() as tasks:

            async def wait():
                assert (await client.result(ref, timeout=SOON)).answer == "a"

            tasks.start_soon(wait)
            await client_listens(valkey)
            await start_worker(ECHO)


async def test_an_end_between_the_question_and_the_listening_is_not_missed(valkey, monkeypatch):
    def ends_meanwhile(keys, ref):
        final = yield from find_end(keys, ref)
        valkey.client.xadd("bull:echo:events", event("completed", ref, returnvalue='"told"'))
        return final

    def asked_slowly(keys):
        for _ in range(5):
            yield flows.Command(("PING",))
        return (yield from last_event_id(keys))

    find_end, last_event_id = flows.find_end, flows.last_event_id
    monkeypatch.setattr(flows, "find_end", ends_meanwhile)
    monkeypatch.setattr(watching, "last_event_id", asked_slowly)
    async with open_client(valkey.url, poll=timedelta(hours=1)) as client:
        ref = await client.submit("echo", None, queue="echo")
        assert (await client.result(ref, timeout=timedelta(seconds=3))).answer == "told"


async def test_a_reader_that_ended_for_want_of_waiters_is_replaced(valkey, monkeypatch):
    monkeypatch.setattr(watching, "_LINGER_SECONDS", 0)
    async with open_client(valkey.url, poll=timedelta(hours=1)) as client:
        for answer in ("one", "two"):
            ref = await client.submit("echo", None, queue="echo")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(expect, client, ref, answer)
                await client_listens(valkey)
                end = event("completed", ref, returnvalue=json.dumps(answer))
                valkey.client.xadd("bull:echo:events", end)
            await eventually_async(lambda: not readers(valkey), what="the reader has ended")


async def test_a_reader_that_is_needed_again_does_not_end(valkey, monkeypatch):
    monkeypatch.setattr(watching, "_LINGER_SECONDS", 0.1)
    async with open_client(valkey.url, poll=timedelta(hours=1)) as client:
        ref = await client.submit("echo", None, queue="echo")
        with pytest.raises(ResultTimeout):
            await client.result(ref, timeout=timedelta(milliseconds=20))
        would_end_at = anyio.current_time() + 0.1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(expect, client, ref, "late")
            await eventually_async(lambda: anyio.current_time() > would_end_at + 0.1)
            valkey.client.xadd("bull:echo:events", event("completed", ref, returnvalue='"late"'))


def test_on_asyncio_one_is_sent_to_the_other_client():
    async def main():
        async with open_client("redis://127.0.0.1"):
            pass

    with pytest.raises(RuntimeError, match="use SyncClient"):
        anyio.run(main, backend="asyncio")


async def test_a_result_may_be_asked_for_after_the_end(valkey, start_worker):
    await start_worker(ECHO)
    async with open_client(valkey.url) as client:
        ref = await client.submit("echo", {"text": "a"}, queue="echo")
        await eventually_async(lambda: valkey.client.zscore("bull:echo:completed", ref.id))
        assert (await client.result(ref, timeout=SOON)).answer == "a"


async def test_a_job_removed_on_completion_is_found_in_the_events(valkey, start_worker):
    await start_worker(ECHO)
    async with open_client(valkey.url) as client:
        ref = await client.submit(
            "echo", {"text": "a"}, queue="echo", options=AddOptions(keep_completed=0)
        )
        await eventually_async(lambda: not valkey.client.exists(f"bull:echo:{ref.id}"))
        # More than one page of events lies in front of it.
        for _ in range(120):
            valkey.client.xadd("bull:echo:events", {"event": "waiting", "jobId": "x"})
        assert (await client.result(ref, timeout=SOON)).answer == "a"
        assert await client.get(ref) is None


async def test_a_job_that_was_never_there_is_gone(valkey):
    async with open_client(valkey.url) as client:
        with pytest.raises(JobGone, match="job 77 on echo does not exist"):
            await client.result(JobRef("77", "echo"), timeout=SOON)


async def test_the_end_of_an_earlier_job_of_the_same_id_is_not_taken_for_this_one(valkey):
    ref = JobRef("mine", "echo")
    valkey.client.xadd("bull:echo:events", event("completed", ref, returnvalue='"old"'))
    valkey.client.xadd("bull:echo:events", event("added", ref))
    async with open_client(valkey.url) as client:
        with pytest.raises(JobGone):
            await client.result(ref, timeout=SOON)


async def test_a_job_that_is_removed_while_it_is_waited_for_is_gone(valkey):
    async with open_client(valkey.url, poll=timedelta(hours=1)) as client:
        ref = await client.submit("echo", None, queue="echo")
        gone = []

        async def wait():
            try:
                await client.result(ref, timeout=SOON)
            except JobGone as error:
                gone.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await client_listens(valkey)
            valkey.client.delete(f"bull:echo:{ref.id}")
            valkey.client.xadd("bull:echo:events", event("removed", ref))
    assert len(gone) == 1


async def test_a_large_result_is_followed_until_it_expires(valkey, start_worker):
    await start_worker({**ECHO, "results": {"inline_limit": 200, "ttl": "1h"}})
    async with open_client(valkey.url) as client:
        ref = await client.submit("echo", {"text": "long ", "times": 100}, queue="echo")
        result = await client.result(ref, timeout=SOON)
        pointer = json.loads(valkey.client.hget(f"bull:echo:{ref.id}", "returnvalue"))["stored"]
        assert len(result.answer) > 200
        assert result.stored is None
        valkey.client.delete(pointer["key"])
        with pytest.raises(ResultExpired, match="kept for 1h") as caught:
            await client.result(ref, timeout=SOON)
    assert caught.value.ttl == timedelta(hours=1)


async def test_a_wait_is_bounded_and_the_job_goes_on(valkey):
    async with open_client(valkey.url) as client:
        ref = await client.submit("echo", None, queue="echo")
        with pytest.raises(TimeoutError, match="did not end within 50ms") as caught:
            await client.result(ref, timeout=timedelta(milliseconds=50))
        assert isinstance(caught.value, ResultTimeout)
        assert (await client.get(ref)).state is JobState.WAITING


async def test_an_end_whose_event_was_lost_is_found_by_asking(valkey):
    async with open_client(valkey.url, poll=timedelta(milliseconds=50)) as client:
        ref = await client.submit("echo", None, queue="echo")
        answers = []

        async def wait():
            answers.append((await client.result(ref, timeout=SOON)).answer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await client_listens(valkey)
            valkey.client.hset(f"bull:echo:{ref.id}", "returnvalue", '"found"')
            valkey.client.zadd("bull:echo:completed", {ref.id: 1})
    assert answers == ["found"]


async def test_a_reader_that_lost_its_connection_goes_on_where_it_was(valkey):
    async with open_client(valkey.url, poll=timedelta(hours=1)) as client:
        ref = await client.submit("echo", None, queue="echo")
        answers = []

        async def wait():
            answers.append((await client.result(ref, timeout=SOON)).answer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await client_listens(valkey)
            [reader] = readers(valkey)
            # Nobody listens when the event comes.
            with valkey.client.pipeline(transaction=True) as pipe:
                pipe.client_kill_filter(_id=reader["id"])
                pipe.xadd("bull:echo:events", event("completed", ref, returnvalue='"late"'))
                pipe.execute()
    assert answers == ["late"]


async def test_options_arrive_as_bullmq_has_them(valkey):
    options = AddOptions(
        job_id="order-1",
        attempts=3,
        backoff=Backoff("exponential", 100),
        delay=timedelta(minutes=1),
        priority=7,
        keep_completed=5,
        keep_failed=6,
    )
    async with open_client(valkey.url) as client:
        ref = await client.submit("echo", {"a": 1}, queue="echo", options=options)
        view = await client.get(ref)
        again = await client.submit("echo", {"a": 2}, queue="echo", options=options)
        urgent = await client.submit("echo", {}, queue="echo", options=AddOptions(priority=2))
        assert (await client.get(urgent)).state is JobState.PRIORITIZED
    assert again == ref == JobRef("order-1", "echo")
    assert (view.name, view.state, view.data) == ("echo", JobState.DELAYED, {"a": 1})
    assert view.max_attempts == 3
    assert view.options == {
        "jobId": "order-1",
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 100, "jitter": 0},
        "delay": 60_000,
        "priority": 7,
        "removeOnComplete": 5,
        "removeOnFail": 6,
    }


async def test_a_job_can_be_looked_at_through_its_life(valkey, start_worker):
    async with open_client(valkey.url) as client:
        ref = await client.submit("echo", {"text": 1}, queue="echo")
        before = await client.get(ref)
        assert (before.state, before.progress, before.finished_at) == (
            JobState.WAITING,
            None,
            None,
        )
        await start_worker({**ECHO, "worker": {**ECHO["worker"], "id": "w1"}})
        await eventually_async(lambda: valkey.client.zscore("bull:echo:failed", ref.id))
        after = await client.get(ref)
    assert (after.state, after.attempts_made, after.worker) == (JobState.FAILED, 1, "w1")
    assert "expected text" in after.failed_reason
    assert len(after.stacktrace) == 1
    assert before.created_at == after.created_at <= after.processed_at <= after.finished_at


async def test_an_attrs_instance_is_data(valkey):
    @attrs.frozen
    class Ask:
        text: str
        times: int = 2

    async with open_client(valkey.url) as client:
        ref = await client.submit("echo", Ask("hi"), queue="echo")
        assert (await client.get(ref)).data == {"text": "hi", "times": 2}


async def test_the_prefix_is_the_clients(valkey):
    async with open_client(valkey.url, prefix="{other}") as client:
        ref = await client.submit("echo", {}, queue="echo")
    assert valkey.client.exists(f"{{other}}:echo:{ref.id}")


async def test_without_a_server_opening_is_refused_after_the_patience(free_tcp_port):
    patience = timedelta(milliseconds=100)
    with pytest.raises(RedisUnavailable, match="could not be reached"):
        async with open_client(f"redis://127.0.0.1:{free_tcp_port}", patience=patience):
            pass


async def test_errors_of_the_body_leave_the_client_as_they_were_raised(valkey):
    with pytest.raises(KeyError, match="mine"):
        async with open_client(valkey.url):
            raise KeyError("mine")


async def expect(client, ref, answer):
    assert (await client.result(ref, timeout=SOON)).answer == answer


def event(name, ref, **fields):
    return {"event": name, "jobId": ref.id, **fields}


def readers(valkey):
    return [one for one in valkey.client.client_list() if one["cmd"] == "xread"]


async def client_listens(valkey):
    await eventually_async(
        lambda: [one for one in readers(valkey) if "b" in one["flags"]], what="a blocked reader"
    )

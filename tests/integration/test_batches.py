"""Batches in a worker: outcomes, faults, failures, and going on where they were left."""

from __future__ import annotations

import json
from datetime import timedelta

import anyio
import pytest

from tests.integration.batch_support import (
    BATCH,
    NO_CIRCUIT,
    chat_item,
    data_of,
    embedding_item,
    ended,
    names_of,
    ready,
    recorded,
    runs,
    settings_for,
)
from tests.integration.support import fields_of, put, state_of
from worker_core.client import (
    BatchItem,
    BatchStatus,
    ItemStatus,
    JobFailed,
    JobRef,
    OnError,
    open_client,
)
from worker_core.testing.fake_engine import FaultAction, ScriptedFault
from worker_core.testing.polling import eventually_async

SOON = timedelta(seconds=30)


async def test_items_are_answered_in_order_with_their_own_envelopes(
    valkey, fake_engine, start_worker
):
    ready(fake_engine)
    await start_worker(settings_for(fake_engine))
    async with open_client(valkey.url) as client:
        names = [f"item {number}" for number in range(20)]
        progress = []
        ref = await client.submit_batch(map(chat_item, names), metadata={"mine": 1})
        result = await client.result(ref, timeout=SOON, on_progress=progress.append)
        items = [one async for one in client.batch_items(ref)]
        view = await client.batch(ref)
    assert (ref.queue, ref.id[:6], len(ref.id)) == (BATCH, "batch_", 30)
    answer = result.answer
    assert [one["custom_id"] for one in answer["items"]] == names
    assert (answer["total"], answer["completed"], answer["failed"]) == (20, 20, 0)
    assert [one.custom_id for one in items] == names
    assert {(one.type, one.status) for one in items} == {("chat", ItemStatus.COMPLETED)}
    assert [one.result.text for one in items] == names
    used = sum(one.result.usage.total_tokens for one in items)
    assert answer["usage"]["total_tokens"] == view.usage.total_tokens == used > 0
    assert (view.status, view.total, view.completed) == (BatchStatus.COMPLETED, 20, 20)
    assert view.created_at <= view.started_at <= view.ended_at
    assert (view.expires_at, view.error) == (None, None)
    assert view.job.data["metadata"] == {"mine": 1}
    assert set(progress[-1]) == {"done", "failed", "total"}
    assert progress[0] == {"done": 0, "failed": 0, "total": 20}


async def test_a_batch_of_chats_and_embeddings_whose_embeddings_share_calls(
    valkey, fake_engine, start_worker
):
    ready(fake_engine)
    items = [
        (embedding_item if number % 4 else chat_item)(f"item {number}") for number in range(400)
    ]
    await start_worker(settings_for(fake_engine))
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(items)
        await client.result(ref, timeout=SOON)
        found = [one async for one in client.batch_items(ref)]
    assert [(one.custom_id, one.type) for one in found] == [(i.custom_id, i.type) for i in items]
    assert {one.status for one in found} == {ItemStatus.COMPLETED}
    assert all(len(one.result.answer["embeddings"][0]) == 768 for one in found[1:4])
    sizes = [one.inputs for one in fake_engine.log.select("/api/embed") if one.inputs]
    assert sum(sizes) == 300
    assert sum(sizes) / len(sizes) >= 16, sizes
    assert set(runs(fake_engine).values()) == {1}


async def test_a_long_batch_gives_way_to_jobs_that_come_later(valkey, fake_engine, start_worker):
    """It has every place, and more of its items in line, when chats come. Each place that gets free
    goes to a chat until half of them are the chats'; and the batch goes on with its own half."""
    ready(fake_engine, tokens=4, token_seconds=0.1)
    settings = settings_for(fake_engine, share=0.5)
    settings["worker"]["concurrency"] = 8
    settings["plugins"]["ollama"]["max_concurrent_requests"] = 4
    await start_worker(settings)
    async with open_client(valkey.url) as client:
        items = [chat_item(f"item {number}") for number in range(30)]
        batch = await client.submit_batch(items, concurrency=16)
        await fake_engine.log.wait_until(lambda log: log.in_flight == 4, within=10)
        bodies = [chat_item(f"person {number}").body for number in range(12)]
        chats = [await client.submit("chat", body) for body in bodies]
        for one in chats:
            await client.result(one, timeout=SOON)
        await client.result(batch, timeout=SOON)
    order = [name.split()[0] for name in runs(fake_engine)]
    first, last = order.index("person"), 41 - order[::-1].index("person")
    # In order of arrival it would be the 17th.
    assert first <= 6, order
    while_they_waited = order[first:last]
    assert 4 <= while_they_waited.count("item") <= 16, order


async def test_stored_requests_run_too_and_go_when_the_batch_is_complete(
    valkey, fake_engine, start_worker
):
    ready(fake_engine)
    names = [f"item {number}" for number in range(300)]
    told = []
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(
            map(chat_item, names),
            inline_limit=0,
            meta={"file": "a.jsonl"},
            timeout=timedelta(hours=1),
            on_stored=told.append,
        )
        base = f"bull:{BATCH}:{ref.id}"
        assert (told[-1], valkey.client.llen(f"{base}:requests")) == (300, 300)
        assert (await client.batch(ref)).status is BatchStatus.VALIDATING
        waiting = [one async for one in client.batch_items(ref)]
        assert [one.custom_id for one in waiting] == names
        assert {one.status for one in waiting} == {ItemStatus.NOT_RUN}
        await start_worker(settings_for(fake_engine))
        result = await client.result(ref, timeout=SOON)
        found = [one async for one in client.batch_items(ref, page=7)]
        view = await client.batch(ref)
    assert result.answer == {
        "total": 300,
        "completed": 300,
        "failed": 0,
        "usage": result.answer["usage"],
        "items_key": f"{base}:items",
        "items_ttl_seconds": 7 * 86400,
    }
    assert [one.result.text for one in found] == names
    assert (view.meta, view.total) == ({"file": "a.jsonl"}, 300)
    assert view.expires_at == view.created_at + timedelta(hours=1)
    assert not valkey.client.exists(f"{base}:requests")
    for key in ("items", "batch"):
        assert 7 * 86400 - 60 < valkey.client.ttl(f"{base}:{key}") <= 7 * 86400


# --- What is wrong with it ---


async def test_every_fault_is_named_before_anything_runs(valkey, fake_engine, start_worker):
    ready(fake_engine)
    items = [
        chat_item("good"),
        BatchItem("role", "chat", {"model": "m", "messages": [{"role": "x", "content": ""}]}),
        chat_item("good"),
        BatchItem("", "chat", chat_item("x").body),
        BatchItem("type", "poems", {}),
        BatchItem("self", "batch", {"requests": []}),
        BatchItem("body", "embeddings", []),
    ]
    data = data_of(items)
    data["requests"] += [7, {"type": "chat", "body": {}}]
    await start_worker(settings_for(fake_engine))
    ref = JobRef(put(valkey.client, BATCH, data), BATCH)
    reason = (await ended(valkey.client, ref, "failed"))["failedReason"]
    for fault in (
        "requests[1].body.messages[0].role: expected one of 'system'",
        "requests[2].custom_id: is that of requests[0] too: 'good'",
        "requests[3].custom_id: must not be empty",
        "requests[4].type: no job type 'poems' may run in a batch; there are: chat, embeddings",
        "requests[5].type: no job type 'batch'",
        "requests[6].body: expected an object, found a list",
        "requests[7]: expected an object, found a number",
        "requests[8].custom_id: missing",
    ):
        assert fault in reason, reason
    assert "requests[0]" not in reason.replace("requests[0] too", "")
    assert not runs(fake_engine)
    async with open_client(valkey.url) as client:
        assert (await client.batch(ref)).status is BatchStatus.FAILED
        found = [one async for one in client.batch_items(ref)]
    assert {one.status for one in found} == {ItemStatus.NOT_RUN}


async def test_many_faults_are_counted(valkey, fake_engine, start_worker):
    await start_worker(settings_for(fake_engine))
    ref = JobRef(put(valkey.client, BATCH, {"requests": [{}] * 50}), BATCH)
    reason = (await ended(valkey.client, ref, "failed"))["failedReason"]
    assert reason.count("missing") == 100
    assert reason.endswith("; and 50 more")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "these or 'stored' must be there"),
        ({"requests": []}, "requests: must not be empty"),
        ({"requests": {}}, "requests: expected a list, found an object"),
        ({"requests": [1], "stored": {"total": 1}}, "these or 'stored' must be there"),
        ({"stored": {"total": 3}}, "stored: 0 of 3 requests are stored"),
        ({"stored": {"total": 0}}, "stored.total: must be at least 1"),
        ({"requests": [1], "concurrency": 0}, "concurrency: must be at least 1"),
        ({"requests": [1], "on_error": "pray"}, "on_error: expected one of"),
        ({"requests": [1], "timeout": "soon"}, "timeout: expected a duration"),
        ({"requests": [1] * 11}, "11 are over the limit of 10 (plugins.batch.max_requests)"),
    ],
)
async def test_what_a_batch_cannot_be(valkey, fake_engine, start_worker, data, fault):
    await start_worker(settings_for(fake_engine, max_requests=10))
    ref = JobRef(put(valkey.client, BATCH, data), BATCH)
    assert fault in (await ended(valkey.client, ref, "failed"))["failedReason"]


# --- Failures ---


def refuse(contains: str, **members: object) -> ScriptedFault:
    members = {"status": 400, "error": "no such option", **members}
    return ScriptedFault(action=FaultAction.STATUS, contains=contains, count=None, **members)


async def test_failed_items_are_outcomes_and_the_batch_is_completed(
    valkey, fake_engine, start_worker
):
    ready(fake_engine)
    fake_engine.script(refuse("bad"), refuse("crash", status=500, error="out of luck"))
    settings = settings_for(fake_engine)
    settings["plugins"]["chat"] = {"allowed_models": ["llama3"]}
    await start_worker(settings)
    other = BatchItem("other", "chat", {**chat_item("x").body, "model": "gpt"})
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(
            [chat_item("bad"), chat_item("good"), chat_item("crash"), other]
        )
        answer = (await client.result(ref, timeout=SOON)).answer
        found = {one.custom_id: one async for one in client.batch_items(ref)}
        view = await client.batch(ref)
    assert (answer["completed"], answer["failed"]) == (1, 3)
    error = answer["items"][0]["error"]
    assert (error["class"], "no such option" in error["message"]) == ("bad_input", True)
    assert found["bad"].error.failure == "bad_input"
    assert (found["crash"].error.failure, found["crash"].status) == ("crashed", ItemStatus.FAILED)
    assert "out of luck" in found["crash"].error.message
    assert found["other"].error.failure == "invalid_request"
    assert "'gpt' is not allowed" in found["other"].error.message
    assert found["good"].result.text == "good"
    assert (view.status, view.completed, view.failed) == (BatchStatus.COMPLETED, 1, 3)


async def test_an_item_that_takes_too_long_fails_alone(valkey, fake_engine, start_worker):
    ready(fake_engine, tokens=10_000, token_seconds=0.01)
    await start_worker(settings_for(fake_engine))
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch([chat_item("slow", timeout="200ms")])
        await client.result(ref, timeout=SOON)
        (found,) = [one async for one in client.batch_items(ref)]
    assert (found.status, found.error.failure) == (ItemStatus.FAILED, "deadline")


async def test_on_error_stop_begins_nothing_new_and_keeps_what_is_done(
    valkey, fake_engine, start_worker
):
    ready(fake_engine)
    fake_engine.script(refuse("item 5"))
    await start_worker(settings_for(fake_engine))
    names = [f"item {number}" for number in range(10)]
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(map(chat_item, names), concurrency=1, on_error=OnError.STOP)
        with pytest.raises(JobFailed) as caught:
            await client.result(ref, timeout=SOON)
        view = await client.batch(ref)
        found = [one.status async for one in client.batch_items(ref)]
    reason = caught.value.reason
    assert reason.startswith("item 'item 5' failed: ")
    assert reason.endswith("no such option); 6 of 10 are done and kept")
    assert set(runs(fake_engine)) == set(names[:6])
    assert (view.status, view.completed, view.failed) == (BatchStatus.FAILED, 5, 1)
    assert found == [ItemStatus.COMPLETED] * 5 + [ItemStatus.FAILED] + [ItemStatus.NOT_RUN] * 4


async def test_a_batch_expires_by_the_time_that_it_was_added(valkey, fake_engine, start_worker):
    ready(fake_engine, tokens=1, prefill_seconds=0.2)
    names = [f"item {number}" for number in range(200)]
    await start_worker(settings_for(fake_engine))
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(
            map(chat_item, names), concurrency=2, timeout=timedelta(seconds=2)
        )
        with pytest.raises(JobFailed) as caught:
            await client.result(ref, timeout=SOON)
        view = await client.batch(ref)
        found = [one.status async for one in client.batch_items(ref)]
    done = found.count(ItemStatus.COMPLETED)
    assert 0 < done < 30
    assert caught.value.reason == (
        f"the batch did not end within 2s: {done} of 200 items are done and kept"
    )
    assert (view.status, view.completed, view.failed) == (BatchStatus.EXPIRED, done, 0)
    assert fake_engine.log.in_flight == 0


async def test_a_batch_that_waited_too_long_runs_nothing(valkey, fake_engine, start_worker):
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch([chat_item("late")], timeout=timedelta(milliseconds=10))
        await anyio.sleep(0.02)
        await start_worker(settings_for(fake_engine))
        with pytest.raises(JobFailed, match="0 of 1 items are done"):
            await client.result(ref, timeout=SOON)
        assert (await client.batch(ref)).status is BatchStatus.EXPIRED
    assert not runs(fake_engine)


# --- Going on ---


async def test_an_engine_that_is_gone_puts_the_batch_off_and_no_attempt_is_spent(
    valkey, fake_engine, start_worker
):
    ready(fake_engine)
    gone = ScriptedFault(action=FaultAction.CLOSE, path="/api/chat", count=None, skip=7)
    fake_engine.script(gone)
    settings = settings_for(fake_engine, retry_delay="300ms")
    settings["worker"]["engine_patience"] = "100ms"
    await start_worker(settings)
    names = [f"item {number}" for number in range(30)]
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(map(chat_item, names))
        await eventually_async(lambda: state_of(valkey.client, ref.id, BATCH) == "delayed")
        done = names_of(recorded(valkey.client, ref.id))
        assert 0 < len(done) < 30
        assert (await client.batch(ref)).status is BatchStatus.IN_PROGRESS
        fake_engine.log.clear()
        # It comes back, to find nothing changed, more than once.
        await eventually_async(
            lambda: int(fields_of(valkey.client, ref.id, BATCH).get("ats", 0)) > 2
        )
        fake_engine.faults.clear()
        result = await client.result(ref, timeout=SOON)
    assert (result.answer["completed"], result.attempt) == (30, 1)
    assert not done & set(runs(fake_engine))
    fields = fields_of(valkey.client, ref.id, BATCH)
    assert fields["atm"] == "1"
    logs = valkey.client.lrange(f"bull:{BATCH}:{ref.id}:logs", 0, -1)
    told = f"put off for 300ms with {len(done)} of 30 items done: unreachable: "
    assert logs[0].decode().startswith(told)
    assert not valkey.client.hexists(f"bull:{BATCH}:{ref.id}:batch", "waiting_since_ms")


async def test_an_open_circuit_puts_the_batch_off_until_it_may_close(
    valkey, fake_engine, start_worker
):
    ready(fake_engine)
    fake_engine.script(ScriptedFault(action=FaultAction.CLOSE, path="/api/chat", count=None))
    settings = settings_for(fake_engine, retry_delay="100ms")
    settings["worker"]["engine_patience"] = "100ms"
    settings["plugins"]["ollama"]["circuit"] = {"consecutive": 1, "open_for": "700ms"}
    await start_worker(settings)
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(chat_item(f"item {number}") for number in range(30))
        key = f"bull:{BATCH}:{ref.id}:logs"
        await eventually_async(
            lambda: b"circuit_open" in b"".join(valkey.client.lrange(key, 0, -1))
        )
        fake_engine.faults.clear()
        result = await client.result(ref, timeout=SOON)
    assert (result.answer["completed"], result.attempt) == (30, 1)


@pytest.mark.parametrize("circuit", [NO_CIRCUIT, {"consecutive": 1, "open_for": "500ms"}])
async def test_patience_with_an_engine_that_is_gone_ends(
    valkey, fake_engine, start_worker, circuit
):
    ready(fake_engine)
    fake_engine.script(ScriptedFault(action=FaultAction.CLOSE, path="/api/chat", count=None))
    settings = settings_for(fake_engine, retry_delay="50ms", patience="1s")
    settings["worker"]["engine_patience"] = "100ms"
    settings["plugins"]["ollama"]["circuit"] = circuit
    await start_worker(settings)
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch([chat_item("one")])
        with pytest.raises(JobFailed, match="unreachable: ") as caught:
            await client.result(ref, timeout=SOON)
    assert caught.value.attempts == 1
    assert int(fields_of(valkey.client, ref.id, BATCH)["ats"]) > 1


async def test_wrong_credentials_end_the_batch_at_once(valkey, fake_engine, start_worker):
    ready(fake_engine, loaded=("llama3",), api_key="secret")
    await start_worker(settings_for(fake_engine))
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch([chat_item("one"), chat_item("two")])
        with pytest.raises(JobFailed, match="unauthorized: "):
            await client.result(ref, timeout=SOON)
    assert recorded(valkey.client, ref.id) == {}


async def test_a_retry_by_hand_goes_on_with_what_is_left(valkey, fake_engine, start_worker):
    ready(fake_engine)
    fake_engine.script(refuse("item 5"))
    await start_worker(settings_for(fake_engine))
    names = [f"item {number}" for number in range(10)]
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(
            map(chat_item, names), concurrency=1, on_error=OnError.STOP, inline_limit=0
        )
        await ended(valkey.client, ref, "failed")
        move_to_wait(valkey.client, ref, "failed")
        result = await client.result(ref, timeout=SOON)
    assert (result.answer["completed"], result.answer["failed"]) == (9, 1)
    assert set(runs(fake_engine).values()) == {1}


async def test_a_batch_that_is_complete_completes_again_without_its_requests(
    valkey, fake_engine, start_worker
):
    ready(fake_engine)
    names = [f"item {number}" for number in range(10)]
    await start_worker(settings_for(fake_engine))
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(map(chat_item, names), inline_limit=0)
        first = await client.result(ref, timeout=SOON)
        assert not valkey.client.exists(f"bull:{BATCH}:{ref.id}:requests")
        move_to_wait(valkey.client, ref, "completed")
        await eventually_async(
            lambda: (
                fields_of(valkey.client, ref.id, BATCH).get("ats") == "2"
                and state_of(valkey.client, ref.id, BATCH) == "completed"
            )
        )
        again = await client.result(ref, timeout=SOON)
    assert again.answer == first.answer
    assert set(runs(fake_engine).values()) == {1}


async def test_another_job_of_the_same_id_begins_anew(valkey, fake_engine, start_worker):
    ready(fake_engine)
    await start_worker(settings_for(fake_engine))
    data = data_of([chat_item("one"), chat_item("two")])
    for _ in range(2):
        put(valkey.client, BATCH, data, job_id="mine")
        ref = JobRef("mine", BATCH)
        await ended(valkey.client, ref)
        valkey.client.zrem(f"bull:{BATCH}:completed", "mine")
        answer = json.loads(fields_of(valkey.client, "mine", BATCH)["returnvalue"])["answer"]
        assert answer["completed"] == 2
        valkey.client.delete(f"bull:{BATCH}:mine")
    assert runs(fake_engine) == {"one": 2, "two": 2}


async def test_lost_connections_neither_lose_an_outcome_nor_count_it_twice(
    valkey, fake_engine, start_worker
):
    ready(fake_engine, tokens=1, prefill_seconds=0.02)
    await start_worker(settings_for(fake_engine))
    names = [f"item {number}" for number in range(300)]
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(map(chat_item, names), inline_limit=0)
        for part in range(1, 6):
            await eventually_async(
                lambda part=part: len(recorded(valkey.client, ref.id)) > 40 * part
            )
            valkey.client.client_kill_filter(_type="normal", skipme=True)
        answer = (await client.result(ref, timeout=SOON)).answer
    assert (answer["completed"], answer["failed"]) == (300, 0)
    assert len(recorded(valkey.client, ref.id)) == 300
    assert set(runs(fake_engine).values()) == {1}


async def test_a_stop_while_requests_are_looked_at_gives_the_batch_back(
    valkey, fake_engine, start_worker
):
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(
            (chat_item(f"item {number}") for number in range(20_000)), inline_limit=0
        )
        worker = await start_worker(settings_for(fake_engine))
        await eventually_async(lambda: state_of(valkey.client, ref.id, BATCH) == "active")
        assert (await client.batch(ref)).status is BatchStatus.VALIDATING
        worker.request_stop("the test asks for it")
        await eventually_async(lambda: state_of(valkey.client, ref.id, BATCH) == "wait", within=3)
    assert not runs(fake_engine)
    assert fields_of(valkey.client, ref.id, BATCH).get("atm", "0") == "0"


async def test_the_types_of_a_batch_may_be_missing_on_the_worker_that_goes_on_with_it(
    valkey, fake_engine, start_worker
):
    ready(fake_engine, tokens=1, prefill_seconds=0.05)
    worker = await start_worker(settings_for(fake_engine))
    items = [chat_item(f"item {number}") for number in range(100)]
    items.append(embedding_item("last"))
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(items, concurrency=4)
        await eventually_async(lambda: len(recorded(valkey.client, ref.id)) > 10)
        worker.request_stop("the test asks for it")
        await eventually_async(lambda: state_of(valkey.client, ref.id, BATCH) == "wait")
        settings = settings_for(fake_engine, retry_delay="100ms", patience="500ms")
        settings["worker"]["plugins"] = ["batch", "chat"]
        await start_worker(settings)
        with pytest.raises(JobFailed, match="no job type 'embeddings'"):
            await client.result(ref, timeout=SOON)
        # The item itself is not at fault.
        assert len(recorded(valkey.client, ref.id)) == 100


# httpx leaves its generator of a request's body to the collector where the sending is cancelled.
@pytest.mark.filterwarnings("ignore:.*ByteStream:pytest.PytestUnraisableExceptionWarning")
async def test_a_cancel_ends_the_engine_calls_and_keeps_what_is_done(
    valkey, fake_engine, start_worker
):
    ready(fake_engine, tokens=1, prefill_seconds=0.1)
    await start_worker(settings_for(fake_engine))
    names = [f"item {number}" for number in range(200)]
    async with open_client(valkey.url) as client:
        ref = await client.submit_batch(map(chat_item, names))
        await eventually_async(lambda: len(recorded(valkey.client, ref.id)) > 10)
        await client.cancel(ref, wait=SOON)
        await eventually_async(lambda: fake_engine.log.in_flight == 0)
        view = await client.batch(ref)
        found = [one async for one in client.batch_items(ref)]
    done = names_of(recorded(valkey.client, ref.id))
    assert 10 < len(done) < 100
    assert (view.status, view.completed) == (BatchStatus.CANCELLED, len(done))
    assert {one.custom_id for one in found if one.status is ItemStatus.COMPLETED} == done
    assert {one.custom_id for one in found if one.status is ItemStatus.NOT_RUN} == (
        set(names) - done
    )


def move_to_wait(client, ref, state):
    """Retry an ended job, as BullMQ's `job.retry` does."""
    base = f"bull:{ref.queue}"
    with client.pipeline() as pipe:
        pipe.zrem(f"{base}:{state}", ref.id)
        pipe.hdel(f"{base}:{ref.id}", "finishedOn", "failedReason", "returnvalue")
        pipe.lpush(f"{base}:wait", ref.id)
        pipe.zadd(f"{base}:marker", {"0": 0})
        pipe.execute()

"""Submitting batches and looking at them, by both clients, without a worker."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from worker_core._bullmq.adding import AddOptions
from worker_core.client import (
    BatchItem,
    BatchStatus,
    InvalidJob,
    ItemsExpired,
    ItemStatus,
    JobGone,
    JobRef,
    OnError,
    SyncClient,
    batch_submission,
    open_client,
)

QUEUE = "llm-batch"


@pytest.fixture
def client(valkey):
    with SyncClient(valkey.url) as made:
        yield made


def items(count, size=1):
    return [BatchItem(f"id-{number}", "chat", {"text": "x" * size}) for number in range(count)]


def data_of(valkey, ref):
    return json.loads(valkey.client.hget(f"bull:{ref.queue}:{ref.id}", "data"))


def stored(valkey, ref):
    raw = valkey.client.lrange(f"bull:{ref.queue}:{ref.id}:requests", 0, -1)
    return [json.loads(one) for one in raw]


def own_keys(valkey):
    """The keys of batches beside those of the queue itself."""
    return [
        key
        for key in valkey.client.scan_iter()
        if key.endswith((b":requests", b":batch", b":items"))
    ]


def test_a_small_batch_goes_into_the_jobs_data(client, valkey):
    ref = client.submit_batch(
        items(3),
        concurrency=2,
        on_error=OnError.STOP,
        timeout=timedelta(hours=1),
        metadata={"mine": [1]},
    )
    data = data_of(valkey, ref)
    assert [one["custom_id"] for one in data.pop("requests")] == ["id-0", "id-1", "id-2"]
    assert data == {
        "concurrency": 2,
        "on_error": "stop",
        "timeout": 3_600_000,
        "metadata": {"mine": [1]},
    }
    assert own_keys(valkey) == []
    assert valkey.client.hget(f"bull:{QUEUE}:{ref.id}", "name") == b"batch"


def test_a_large_batch_is_stored_beside_the_job_in_pages(client, valkey):
    told = []
    ref = client.submit_batch(iter(items(1000, 300)), on_stored=told.append)
    assert data_of(valkey, ref) == {"stored": {"total": 1000}}
    assert [one["custom_id"] for one in stored(valkey, ref)] == [f"id-{n}" for n in range(1000)]
    assert (sorted(told), told[-1], len(told) > 3) == (told, 1000, True)
    week = 7 * 86400
    assert week - 60 < valkey.client.ttl(f"bull:{QUEUE}:{ref.id}:requests") <= week
    assert week - 60 < valkey.client.ttl(f"bull:{QUEUE}:{ref.id}:batch") <= week


def test_what_is_stored_is_kept_for_as_long_as_the_batch_may_take(client, valkey):
    ref = client.submit_batch(
        items(1),
        inline_limit=0,
        timeout=timedelta(days=2),
        options=AddOptions(delay=timedelta(days=1)),
    )
    assert round(valkey.client.ttl(f"bull:{QUEUE}:{ref.id}:requests") / 86400) == 10


def test_the_limit_decides_where_the_requests_go(client, valkey):
    size = sum(
        len(json.dumps(one).replace(" ", ""))
        for one in data_of(valkey, client.submit_batch(items(5)))["requests"]
    )
    assert "requests" in data_of(valkey, client.submit_batch(items(5), inline_limit=size))
    assert "stored" in data_of(valkey, client.submit_batch(items(5), inline_limit=size - 1))


def test_items_of_a_megabyte_leave_one_by_one(client, valkey):
    told = []
    ref = client.submit_batch(items(4, 1_100_000), on_stored=told.append)
    assert told == [1, 2, 3, 4]
    assert len(stored(valkey, ref)) == 4


async def test_the_async_client_takes_both_kinds_of_iterables(valkey):
    async def slowly():
        for one in items(300):
            yield one

    async with open_client(valkey.url) as client:
        for source in (slowly(), items(300)):
            ref = await client.submit_batch(source, inline_limit=100, meta={"a": 1})
            assert len(stored(valkey, ref)) == 300
            view = await client.batch(ref)
            assert (view.total, view.meta) == (300, {"a": 1})
            found = [one.custom_id async for one in client.batch_items(ref, page=1000)]
            assert found == [f"id-{number}" for number in range(300)]


# --- What cannot be submitted ---


@pytest.mark.parametrize("limit", [0, 1_000_000], ids=["stored", "inline"])
def test_all_faults_are_named_and_nothing_stays(client, valkey, limit):
    bad = [
        *items(250),
        BatchItem("id-3", "chat", {}),
        BatchItem("", "", {}),
        BatchItem("half", "chat", {"text": ["\ud83d"]}),
        BatchItem("nan", "chat", {"text": float("nan")}),
        BatchItem("\ud83d", "chat", {}),
        BatchItem("id-251", "chat", {}),
        BatchItem("id-251", "chat", {}),
    ]
    with pytest.raises(InvalidJob) as caught:
        client.submit_batch(bad, inline_limit=limit)
    assert [str(fault) for fault in caught.value.faults] == [
        "requests[250].custom_id: is that of requests[3] too: 'id-3'",
        "requests[251].custom_id: must not be empty",
        "requests[251].type: must not be empty",
        "requests[252].body.text[0]: text with half a character (a lone surrogate)",
        "requests[253]: body.text: not a finite number",
        "requests[254].custom_id: text with half a character (a lone surrogate)",
        "requests[256].custom_id: is that of requests[255] too: 'id-251'",
    ]
    assert list(valkey.client.scan_iter()) == []


def test_a_thousand_faults_are_counted(client):
    with pytest.raises(InvalidJob) as caught:
        client.submit_batch([BatchItem("same", "chat", {})] * 1000)
    assert len(caught.value.faults) == 101
    assert str(caught.value).endswith("; and 899 more")


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"concurrency": 0}, "concurrency: must be at least 1"),
        ({"timeout": timedelta()}, "timeout: must be longer than nothing"),
        ({"queue": "a:b"}, "queue: "),
        ({"metadata": {"x": object()}}, "data: "),
        ({"meta": {"x": float("inf")}}, "meta: x: not a finite number"),
    ],
)
def test_what_a_batch_cannot_be(client, valkey, members, fault):
    with pytest.raises(InvalidJob) as caught:
        client.submit_batch(items(300), inline_limit=0, **members)
    assert fault in str(caught.value)
    assert list(valkey.client.scan_iter()) == []


def test_no_items_are_no_batch(client):
    with pytest.raises(InvalidJob, match="requests: must not be empty"):
        client.submit_batch([])


async def test_nothing_stays_of_a_batch_whose_source_fails(valkey, client):
    def source():
        yield from items(500)
        raise RuntimeError("the file ended")

    async def async_source():
        for one in source():
            yield one

    with pytest.raises(RuntimeError, match="the file ended"):
        client.submit_batch(source(), inline_limit=0)
    async with open_client(valkey.url) as other:
        with pytest.raises(RuntimeError, match="the file ended"):
            await other.submit_batch(async_source(), inline_limit=0)
    assert list(valkey.client.scan_iter()) == []


# --- Ids ---


def test_a_batch_that_is_there_is_not_added_again(client, valkey):
    mine = AddOptions(job_id="mine")
    first = client.submit_batch(items(300), inline_limit=0, options=mine)
    again = client.submit_batch(items(5), inline_limit=0, options=mine)
    assert first == again == JobRef("mine", QUEUE)
    assert len(stored(valkey, first)) == 300


def test_what_an_earlier_batch_of_that_id_has_left_goes(client, valkey):
    mine = AddOptions(job_id="mine")
    ref = client.submit_batch(items(300), inline_limit=0, options=mine)
    valkey.client.hset(f"bull:{QUEUE}:mine:items", "0", "{}")
    valkey.client.delete(f"bull:{QUEUE}:mine")
    client.submit_batch(items(5), inline_limit=0, options=mine)
    assert len(stored(valkey, ref)) == 5
    assert not valkey.client.exists(f"bull:{QUEUE}:mine:items")


def test_two_who_submit_under_one_id_do_not_mix_their_items(client, valkey):
    mine = AddOptions(job_id="mine")

    def interrupted():
        yield from items(450)
        with SyncClient(valkey.url) as other:
            other.submit_batch(items(250, 7), inline_limit=0, options=mine)
        yield from (BatchItem(f"late-{number}", "chat", {}) for number in range(450))

    with pytest.raises(InvalidJob, match="somebody else submits a batch of this id"):
        client.submit_batch(interrupted(), inline_limit=0, options=mine)
    assert data_of(valkey, JobRef("mine", QUEUE)) == {"stored": {"total": 250}}
    assert {one["body"]["text"] for one in stored(valkey, JobRef("mine", QUEUE))} == {"x" * 7}


def test_a_call_whose_reply_was_lost_may_be_made_again(valkey):
    submission = batch_submission.BatchSubmission(
        "bull",
        queue=QUEUE,
        concurrency=None,
        on_error=OnError.CONTINUE,
        timeout=None,
        metadata=None,
        meta=None,
        inline_limit=0,
        options=None,
        on_stored=None,
    )

    def carry_twice(flow):
        reply = None
        try:
            while True:
                step = flow.send(reply)
                for _ in range(2):
                    script, keys = step.script.source, step.keys
                    reply = valkey.client.eval(script, len(keys), *keys, *step.args)
        except StopIteration as end:
            return end.value

    for one in items(500):
        carry_twice(submission.add(one))
    ref = carry_twice(submission.finish())
    assert [one["custom_id"] for one in stored(valkey, ref)] == [f"id-{n}" for n in range(500)]
    assert valkey.client.llen(f"bull:{QUEUE}:wait") == 1


# --- Looking ---


def test_a_batch_that_waits(client):
    ref = client.submit_batch(items(3), timeout=timedelta(hours=24))
    view = client.batch(ref)
    assert (view.status, view.total, view.completed) == (BatchStatus.VALIDATING, 3, 0)
    assert view.expires_at == view.created_at + timedelta(hours=24)
    assert (view.started_at, view.ended_at, view.error, view.meta) == (None, None, None, None)
    found = list(client.batch_items(ref))
    assert [(one.index, one.custom_id, one.type) for one in found] == [
        (0, "id-0", "chat"),
        (1, "id-1", "chat"),
        (2, "id-2", "chat"),
    ]
    assert {(one.status, one.result, one.error) for one in found} == {
        (ItemStatus.NOT_RUN, None, None)
    }


def test_a_batch_that_was_cancelled_as_it_waited(client):
    ref = client.submit_batch(items(300), inline_limit=0)
    client.cancel(ref)
    assert client.batch(ref).status is BatchStatus.CANCELLED
    assert len(list(client.batch_items(ref))) == 300


def test_a_batch_that_is_to_be_cancelled(client, valkey):
    ref = client.submit_batch(items(1))
    base = f"bull:{QUEUE}"
    valkey.client.lrem(f"{base}:wait", 0, ref.id)
    valkey.client.lpush(f"{base}:active", ref.id)
    valkey.client.set(f"{base}:{ref.id}:lock", "somebody")
    client.cancel(ref)
    assert client.batch(ref).status is BatchStatus.CANCELLING
    valkey.client.hset(f"{base}:{ref.id}", "timestamp", 1)
    # The wish is about another job, which had the id before.
    assert client.batch(ref).status is not BatchStatus.CANCELLING


def test_a_batch_that_is_not_there(client):
    ref = JobRef("nobody", QUEUE)
    assert client.batch(ref) is None
    with pytest.raises(JobGone):
        list(client.batch_items(ref))


def test_what_is_kept_no_longer_is_told(client, valkey):
    ref = client.submit_batch(items(300), inline_limit=0)
    valkey.client.delete(f"bull:{QUEUE}:{ref.id}:requests")
    with pytest.raises(ItemsExpired, match="not kept any more"):
        list(client.batch_items(ref))


@pytest.mark.parametrize("data", [b"{", b"5", b'{"requests": 5}', b'{"requests": [5, {}]}'])
def test_a_job_that_is_no_batch_can_be_looked_at(client, valkey, data):
    ref = client.submit_batch(items(1))
    valkey.client.hset(f"bull:{QUEUE}:{ref.id}", "data", data)
    assert client.batch(ref).status is BatchStatus.VALIDATING
    try:
        assert {one.custom_id for one in client.batch_items(ref)} == {""}
    except ItemsExpired:
        assert data != b'{"requests": [5, {}]}'

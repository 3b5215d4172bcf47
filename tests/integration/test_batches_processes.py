"""Batches through the death and the stop of the worker that runs them: nothing runs twice."""

from __future__ import annotations

import signal
import time

import anyio
import pytest

from tests.integration.batch_support import (
    BATCH,
    chat_item,
    embedding_item,
    ended,
    names_of,
    ready,
    recorded,
    runs,
)
from tests.integration.support import fields_of, state_of
from worker_core.client import BatchStatus, ItemStatus, SyncClient
from worker_core.testing.fake_engine import Behaviour, open_fake_engine
from worker_core.testing.polling import eventually_async

ITEMS = 500
CONCURRENCY = 8

CONFIG = """\
[worker]
grace = "60s"
concurrency = 8

[queue]
lock_duration = "2s"
lock_renew_time = "1s"
stalled_interval = "500ms"

[plugins.batch]
retry_delay = "200ms"

[plugins.ollama.circuit]
open_for = "500ms"
"""


@pytest.fixture
def start(start_process, fake_engine, tmp_path):
    """Start a worker for batches in a process of its own; chats of the engine take 20 ms."""
    ready(fake_engine, tokens=1, prefill_seconds=0.02)
    config = tmp_path / "worker.toml"
    config.write_text(CONFIG)

    async def start_ready(worker):
        process = start_process(
            *("--plugins", "batch,chat,embeddings", "--config", str(config)),
            environment={
                "WORKER_ID": worker,
                "OLLAMA_BASE_URL": fake_engine.url,
                "MAX_CONCURRENT_REQUESTS": str(CONCURRENCY),
            },
        )
        await anyio.to_thread.run_sync(process.wait_ready)
        return process

    return start_ready


@pytest.fixture
def client(valkey):
    with SyncClient(valkey.url) as made:
        yield made


def mixed(count):
    return [
        (embedding_item if number % 10 == 0 else chat_item)(f"item-{number}")
        for number in range(count)
    ]


async def in_the_middle(valkey, ref):
    """Wait until a good part of a batch is recorded, and another is not."""
    await eventually_async(
        lambda: valkey.client.hlen(f"bull:{BATCH}:{ref.id}:items") > ITEMS // 4, within=30
    )
    assert valkey.client.hlen(f"bull:{BATCH}:{ref.id}:items") < ITEMS * 3 // 4


async def assert_complete(client, ref, items):
    found = await anyio.to_thread.run_sync(lambda: list(client.batch_items(ref)))
    assert [one.custom_id for one in found] == [item.custom_id for item in items]
    assert {one.status for one in found} == {ItemStatus.COMPLETED}
    view = await anyio.to_thread.run_sync(client.batch, ref)
    assert (view.status, view.completed, view.failed) == (BatchStatus.COMPLETED, len(items), 0)


@pytest.mark.parametrize("inline_limit", [0, 10_000_000], ids=["stored", "inline"])
async def test_after_kill_9_another_worker_finishes_it_and_runs_no_recorded_item_again(
    valkey, fake_engine, client, start, inline_limit
):
    items = mixed(ITEMS)
    first = await start("first")
    ref = await anyio.to_thread.run_sync(
        lambda: client.submit_batch(items, inline_limit=inline_limit)
    )
    await in_the_middle(valkey, ref)
    first.kill()
    # Nobody is left who could record anything: this is what there was at the kill.
    kept = names_of(recorded(valkey.client, ref.id))
    await eventually_async(lambda: fake_engine.log.in_flight == 0)
    begun = fake_engine.log.total
    before = runs(fake_engine)
    await start("second")
    await ended(valkey.client, ref, within=60)
    again = runs(fake_engine) - before
    assert fake_engine.log.total > begun
    assert not kept & set(again), sorted(kept & set(again))
    # What ran twice is what the first one had begun and could not record.
    twice = {name for name, count in runs(fake_engine).items() if count > 1}
    assert len(twice) <= 64 + CONCURRENCY
    assert fields_of(valkey.client, ref.id, BATCH)["pb"] == "second"
    await assert_complete(client, ref, items)


async def test_on_sigterm_items_under_way_end_and_another_worker_goes_on(
    valkey, fake_engine, client, start
):
    items = mixed(ITEMS)
    first = await start("first")
    ref = await anyio.to_thread.run_sync(lambda: client.submit_batch(items))
    await in_the_middle(valkey, ref)
    first.signal(signal.SIGTERM)
    began = time.monotonic()
    await eventually_async(lambda: first.process.poll() is not None, within=20)
    # The grace is a minute, and all of the batch would take some seconds.
    assert time.monotonic() - began < 5
    assert first.process.poll() == 0, first.log
    kept = names_of(recorded(valkey.client, ref.id))
    assert len(kept) < ITEMS
    # Nothing that had begun was lost: what reached the engine is recorded.
    assert kept == set(runs(fake_engine))
    fields = fields_of(valkey.client, ref.id, BATCH)
    assert (state_of(valkey.client, ref.id, BATCH), fields.get("atm", "0")) == ("wait", "0")
    await start("second")
    await ended(valkey.client, ref, within=60)
    assert set(runs(fake_engine).values()) == {1}
    await assert_complete(client, ref, items)


async def test_when_the_grace_ends_first_what_runs_is_returned_and_runs_again(
    valkey, fake_engine, client, start
):
    items = [chat_item(f"item-{number}") for number in range(20)]
    first = await start("first")
    fake_engine.behaviour = type(fake_engine.behaviour)(
        loaded=("llama3",), parallel=64, tokens=10_000, token_seconds=0.01
    )
    ref = await anyio.to_thread.run_sync(lambda: client.submit_batch(items))
    await eventually_async(lambda: len(runs(fake_engine)) == CONCURRENCY)
    first.signal(signal.SIGTERM)
    await eventually_async(lambda: '"stopping"' in first.log)
    # A second one ends the grace.
    first.signal(signal.SIGTERM)
    await eventually_async(lambda: first.process.poll() is not None, within=20)
    assert (first.process.poll(), recorded(valkey.client, ref.id)) == (0, {})
    await eventually_async(lambda: fake_engine.log.in_flight == 0)
    ready(fake_engine, tokens=1, token_seconds=0.0)
    await start("second")
    await ended(valkey.client, ref, within=60)
    await assert_complete(client, ref, items)


async def test_while_the_engine_is_gone_the_batch_is_put_off_and_then_it_goes_on(
    valkey, client, start_process, tmp_path, free_tcp_port
):
    items = mixed(ITEMS)
    config = tmp_path / "worker.toml"
    config.write_text(CONFIG.replace("[worker]", '[worker]\nengine_patience = "200ms"'))
    behaviour = Behaviour(
        loaded=("llama3", "nomic-embed-text"), parallel=64, tokens=1, prefill_seconds=0.02
    )
    async with open_fake_engine(behaviour, port=free_tcp_port) as engine:
        process = start_process(
            *("--plugins", "batch,chat,embeddings", "--config", str(config)),
            environment={
                "OLLAMA_BASE_URL": engine.url,
                "MAX_CONCURRENT_REQUESTS": str(CONCURRENCY),
            },
        )
        await anyio.to_thread.run_sync(process.wait_ready)
        ref = await anyio.to_thread.run_sync(lambda: client.submit_batch(items))
        await in_the_middle(valkey, ref)
    await eventually_async(lambda: state_of(valkey.client, ref.id, BATCH) == "delayed")
    kept = names_of(recorded(valkey.client, ref.id))
    assert len(kept) < ITEMS
    async with open_fake_engine(behaviour, port=free_tcp_port) as engine:
        await ended(valkey.client, ref, within=60)
        assert not kept & set(runs(engine))
    assert fields_of(valkey.client, ref.id, BATCH)["atm"] == "1"
    await assert_complete(client, ref, items)

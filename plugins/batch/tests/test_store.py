"""What is written of a batch, on a real server: also when it is cancelled, also twice."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest
from pytest_trio import trio_fixture
from worker_core_batch.store import BatchStore, ItemRecord

from worker_core.batches import BatchKeys, BatchPhase
from worker_core.redis import Endpoint, Redis, open_link
from worker_core.testing.polling import eventually_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker_core.testing.fixtures import ValkeyFixture

KEYS = BatchKeys("bull", "llm-batch", "7")


@trio_fixture
async def store(valkey: ValkeyFixture) -> AsyncIterator[BatchStore]:
    async with open_link(Endpoint.from_url(valkey.url)) as link:
        await link.wait_connected(within=5)
        yield BatchStore(Redis(link), KEYS, timedelta(hours=1))


def outcome(index: int, *, is_failure: bool = False) -> ItemRecord:
    return ItemRecord(
        index=index,
        written=b"{}",
        is_failure=is_failure,
        prompt_tokens=2,
        completion_tokens=3,
    )


async def test_an_outcome_is_recorded_though_the_batch_was_cancelled(store: BatchStore) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.record(outcome(3))
    assert scope.cancelled_caught
    assert await store.done() == {3}


async def test_a_cancelled_batch_does_not_wait_for_a_server_that_is_gone(
    store: BatchStore, valkey: ValkeyFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_core_batch.store._LAST_SECONDS", 0.2)
    # Alive, and silent.
    valkey.client.client_pause(1000)
    try:
        with anyio.fail_after(2), anyio.CancelScope() as scope:
            scope.cancel()
            await store.record(outcome(3))
        assert scope.cancelled_caught
    finally:
        valkey.client.client_unpause()


async def test_the_first_outcome_of_an_item_counts(store: BatchStore) -> None:
    await store.record(outcome(3))
    await store.record(outcome(3, is_failure=True))
    await store.record(outcome(4, is_failure=True))
    state = await store.state()
    assert (state.completed, state.failed, state.ended) == (1, 1, 2)
    assert (state.prompt_tokens, state.completion_tokens) == (4, 6)


async def test_a_batch_is_begun_once_and_then_resumed(store: BatchStore) -> None:
    first = await store.begin(created_ms=5, total=9, limit=timedelta(seconds=1))
    assert (first.phase, first.total, first.timeout_ms) == (BatchPhase.VALIDATING, 9, 1000)
    await store.enter(BatchPhase.IN_PROGRESS)
    await store.record(outcome(3))
    again = await store.begin(created_ms=5, total=9, limit=None)
    assert (again.phase, again.completed) == (BatchPhase.IN_PROGRESS, 1)
    assert await store.done() == {3}


async def test_a_later_job_of_the_same_id_finds_nothing_of_the_earlier(store: BatchStore) -> None:
    await store.begin(created_ms=5, total=9, limit=None)
    await store.record(outcome(3))
    await store.enter(BatchPhase.IN_PROGRESS)
    other = await store.begin(created_ms=6, total=2, limit=None)
    assert (other.phase, other.ended, other.total) == (BatchPhase.VALIDATING, 0, 2)
    assert await store.done() == set()


async def _waited(store: BatchStore, seconds: float) -> bool:
    return await store.put_off() >= seconds


async def test_how_long_nothing_has_ended_is_counted_from_the_first_time(
    store: BatchStore,
) -> None:
    assert await store.put_off() == 0.0
    await eventually_async(lambda: _waited(store, 0.05))
    await store.record(outcome(1))
    assert await store.put_off() == 0.0
    await eventually_async(lambda: _waited(store, 0.001))
    await store.give_up()
    assert await store.put_off() == 0.0


async def test_all_of_it_is_kept_for_as_long_as_was_asked_from_the_last_write(
    store: BatchStore, valkey: ValkeyFixture
) -> None:
    redis = valkey.client
    redis.rpush(KEYS.requests, "x")
    await store.begin(created_ms=5, total=1, limit=None)
    for key in (KEYS.requests, KEYS.state):
        assert 3590 < redis.ttl(key) <= 3600
        redis.expire(key, 10)
    await store.record(outcome(0))
    assert all(3590 < redis.ttl(key) <= 3600 for key in (KEYS.requests, KEYS.state, KEYS.items))
    await store.end(BatchPhase.COMPLETED)
    assert redis.exists(KEYS.requests, KEYS.state, KEYS.items) == 2
    assert (await store.state()).ended_ms is not None

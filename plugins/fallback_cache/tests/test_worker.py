"""Kept answers in a real worker, on an engine that speaks Ollama's contract."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from pytest_trio import trio_fixture

from worker_core.client import Client, JobFailed, Result, TokenChunk, open_client
from worker_core.testing.fake_engine import FaultAction, ScriptedFault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from worker_core._runtime.worker import Worker
    from worker_core.testing.fake_engine import FakeEngine
    from worker_core.testing.fixtures import ValkeyFixture

CHAT = {
    "model": "llama3",
    "messages": [{"role": "user", "content": "one two three"}],
    "temperature": 0,
}
DOWN = ScriptedFault(action=FaultAction.STATUS, status=500, path="/api/chat", count=None)
WITHIN = timedelta(seconds=10)


@attrs.define(eq=False)
class Bench:
    client: Client
    engine: FakeEngine
    start_worker: Callable[..., Awaitable[Worker]]

    async def start(self, **cache: Any) -> None:
        await self.start_worker(
            {
                # A job whose model has an open circuit is put back: here each must end.
                "worker": {"plugins": ["chat", "fallback_cache"], "circuits": False},
                "plugins": {
                    "ollama": {"base_url": self.engine.url, "max_retries": 0},
                    "fallback_cache": cache,
                },
            }
        )

    async def result(self, **data: Any) -> Result:
        ref = await self.client.submit("chat", {**CHAT, **data})
        return await self.client.result(ref, timeout=WITHIN)


@trio_fixture
async def bench(
    valkey: ValkeyFixture,
    fake_engine: FakeEngine,
    start_worker: Callable[..., Awaitable[Worker]],
) -> AsyncIterator[Bench]:
    async with open_client(valkey.url) as client:
        yield Bench(client, fake_engine, start_worker)


async def test_a_kept_answer_is_given_when_the_engine_fails(bench: Bench) -> None:
    await bench.start()
    first = await bench.result()
    assert first.fallback is None
    bench.engine.script(DOWN)
    second = await bench.result()
    assert second.answer == first.answer
    assert second.model == first.model
    assert second.usage.total_tokens == 0
    assert second.fallback is not None
    assert list(second.fallback) == ["strategy", "reason", "age_seconds"]
    assert second.fallback["strategy"] == "fallback_cache"
    assert str(second.fallback["reason"]).startswith("crashed: ")
    with pytest.raises(JobFailed, match="crashed"):
        await bench.result(messages=[{"role": "user", "content": "something else"}])


async def test_nothing_is_shared_across_tenants(bench: Bench) -> None:
    await bench.start()
    await bench.result(metadata={"tenant": "acme"})
    await bench.result(metadata={"tenant": 7})
    bench.engine.script(DOWN)
    for metadata in ({"tenant": "acme", "trace": 1}, {"tenant": 7}):
        assert (await bench.result(metadata=metadata)).fallback is not None
    for metadata in ({}, {"tenant": "other"}, {"tenant": None}, {"tenant": ["acme"]}):
        with pytest.raises(JobFailed, match="crashed"):
            await bench.result(metadata=metadata)


async def test_a_kept_answer_may_spare_the_engine(bench: Bench) -> None:
    await bench.start(mode="always")
    await bench.result()
    asked = bench.engine.log.total
    again = await bench.result()
    assert bench.engine.log.total == asked
    assert again.fallback is not None
    assert again.fallback["reason"] is None
    # Not for a job whose answers differ each time.
    assert (await bench.result(temperature=1)).fallback is None


async def test_a_kept_answer_is_streamed_as_one_piece(bench: Bench) -> None:
    await bench.start()
    await bench.result()
    bench.engine.script(DOWN)
    ref = await bench.client.submit("chat", {**CHAT, "stream": True})
    items = [item async for item in bench.client.tokens(ref, timeout=WITHIN)]
    assert [item.content for item in items if isinstance(item, TokenChunk)] == ["one two three"]


async def test_an_answer_of_another_form_than_asked_for_is_not_kept(bench: Bench) -> None:
    await bench.start(mode="always")
    prose = ScriptedFault(action=FaultAction.ANSWER, text="no JSON", path="/api/chat")
    bench.engine.script(attrs.evolve(prose, contains="one"))
    with pytest.raises(JobFailed, match="not the JSON"):
        await bench.result(format="json")
    assert (await bench.result(format="json")).fallback is None

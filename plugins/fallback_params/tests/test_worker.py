"""The same model is asked for less, in a real worker on an engine that speaks Ollama's contract."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from pytest_trio import trio_fixture

from worker_core.client import Client, JobFailed, Result, open_client
from worker_core.testing.fake_engine import FaultAction, ScriptedFault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from worker_core._runtime.worker import Worker
    from worker_core.testing.fake_engine import FakeEngine, LoggedRequest
    from worker_core.testing.fixtures import ValkeyFixture

HANGS = ScriptedFault(action=FaultAction.HANG, path="/api/chat", count=None)
NO_MEMORY = ScriptedFault(
    action=FaultAction.STATUS, status=500, error="out of memory", path="/api/chat"
)


@attrs.define(eq=False)
class Bench:
    client: Client
    engine: FakeEngine
    start_worker: Callable[..., Awaitable[Worker]]

    async def start(self, **fallback: Any) -> None:
        await self.start_worker(
            {
                # A job whose model has an open circuit is put back: here each must end.
                "worker": {"plugins": ["chat", "fallback_params"], "circuits": False},
                "plugins": {
                    "ollama": {
                        "base_url": self.engine.url,
                        "max_retries": 0,
                        "first_token_timeout": "400ms",
                    },
                    "fallback_params": fallback,
                },
            }
        )
        # Loaded before anything is scripted: a load is a chat without messages.
        await self.result()

    async def result(self, **data: Any) -> Result:
        words = [
            {"role": role, "content": f"{role} {turn}"}
            for turn in range(4)
            for role in ("user", "assistant")
        ]
        messages = [{"role": "system", "content": "s"}, *words, {"role": "user", "content": "hi"}]
        ref = await self.client.submit("chat", {"model": "qwen3", "messages": messages, **data})
        return await self.client.result(ref, timeout=timedelta(seconds=10))

    @property
    def chats(self) -> list[LoggedRequest]:
        return [request for request in self.engine.log.requests if request.path == "/api/chat"]


@trio_fixture
async def bench(
    valkey: ValkeyFixture,
    fake_engine: FakeEngine,
    start_worker: Callable[..., Awaitable[Worker]],
) -> AsyncIterator[Bench]:
    async with open_client(valkey.url) as client:
        yield Bench(client, fake_engine, start_worker)


async def test_a_simpler_request_is_answered_and_the_envelope_says_how(bench: Bench) -> None:
    await bench.start()
    bench.engine.script(attrs.evolve(HANGS, count=2))
    result = await bench.result()
    assert result.text == "hi"
    assert result.fallback is not None
    # Two hung: the job's own, and the one without thinking.
    assert result.fallback["steps"] == ["think_off", "max_tokens"]
    assert str(result.fallback["reason"]).startswith("timeout: ")
    assert result.model.used == "qwen3"


async def test_fallback_attempts_have_shorter_clocks(bench: Bench) -> None:
    await bench.start(first_token_timeout="50ms")
    before = len(bench.chats)
    bench.engine.script(HANGS)
    with pytest.raises(JobFailed, match=r"gave no first token within 0\.4 s"):
        await bench.result()
    assert len(bench.chats) - before == 4


async def test_a_smaller_context_is_loaded_for_the_call(bench: Bench) -> None:
    await bench.start(steps=["num_ctx"], num_ctx=1024)
    bench.engine.script(NO_MEMORY)
    reloads = bench.engine.log.reloads
    result = await bench.result()
    assert result.fallback is not None
    assert result.fallback["steps"] == ["num_ctx"]
    assert bench.engine.log.reloads == reloads + 1
    assert result.warnings == ()


async def test_a_failure_that_no_step_helps_against_is_left_alone(bench: Bench) -> None:
    await bench.start()
    before = len(bench.chats)
    bench.engine.script(attrs.evolve(NO_MEMORY, status=400, error="invalid options", count=None))
    with pytest.raises(JobFailed, match="bad_input"):
        await bench.result()
    assert len(bench.chats) == before + 1

"""Fallbacks of several plugins in a worker: their order, their errors, streams, runs within runs."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import pytest
from pytest_trio import trio_fixture

from worker_core import (
    Adjusted,
    ChatAnswer,
    FailedCall,
    FailureClass,
    Fallback,
    FallbackAnswer,
    JobContext,
    JobType,
    Message,
    QueueSpec,
    hookimpl,
)
from worker_core.client import Client, JobFailed, Result, open_client
from worker_core.client.tokens import TokenChunk, TokenEnd, TokenItem, TokenRestart
from worker_core.testing.fake_engine import FaultAction, ScriptedFault
from worker_core.testing.workers import plugin_under_test

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from typing import Self

    from worker_core._runtime.plugins import PluginClass
    from worker_core._runtime.worker import Worker
    from worker_core.testing.fake_engine import FakeEngine
    from worker_core.testing.fixtures import ValkeyFixture

CHAT: dict[str, Any] = {
    "model": "llama3",
    "messages": [{"role": "user", "content": "one two three"}],
    "temperature": 0,
}
CRASHED = ScriptedFault(
    action=FaultAction.STATUS, status=500, path="/api/chat", model="llama3", count=None
)
OTHER_CRASHED = attrs.evolve(CRASHED, model="llama3.2:1b")
WITHIN = timedelta(seconds=10)


@attrs.define(eq=False)
class Bench:
    client: Client
    engine: FakeEngine
    start_worker: Callable[..., Awaitable[Worker]]

    async def start(
        self, *plugins: str, extra: Sequence[PluginClass] = (), **worker: Any
    ) -> Worker:
        return await self.start_worker(
            {
                "worker": {"plugins": ["chat", *plugins], "id": "w1", **worker},
                "plugins": {
                    "ollama": {"base_url": self.engine.url, "max_retries": 0},
                    "fallback_model": {"models": ["llama3.2:1b"]},
                },
            },
            extra,
        )

    async def result(self, **data: Any) -> Result:
        ref = await self.client.submit("chat", data or CHAT)
        return await self.client.result(ref, timeout=WITHIN)

    async def strategy_of(self, **data: Any) -> object:
        fallback = (await self.result(**data)).fallback
        return None if fallback is None else fallback["strategy"]

    async def stream(self) -> list[TokenItem]:
        ref = await self.client.submit("chat", {**CHAT, "stream": True})
        return [item async for item in self.client.tokens(ref, timeout=WITHIN)]


@trio_fixture
async def bench(
    valkey: ValkeyFixture,
    fake_engine: FakeEngine,
    start_worker: Callable[..., Awaitable[Worker]],
) -> AsyncIterator[Bench]:
    async with open_client(valkey.url) as client:
        yield Bench(client, fake_engine, start_worker)


# --- Order ---


@pytest.mark.parametrize("order", [["cache", "model"], ["model", "cache"]])
@pytest.mark.parametrize("configured", [False, True])
async def test_strategies_are_asked_in_order(
    bench: Bench, order: list[str], configured: bool
) -> None:
    names = [f"fallback_{name}" for name in order]
    if configured:
        # Against the order of the plugins.
        await bench.start(*reversed(names), fallbacks=names)
    else:
        await bench.start(*names)
    assert await bench.strategy_of() is None
    bench.engine.script(CRASHED)
    assert await bench.strategy_of() == names[0]


async def test_the_next_strategy_is_asked_when_one_fails(bench: Bench) -> None:
    worker = await bench.start("fallback_model", "fallback_cache")
    await bench.result()
    bench.engine.script(CRASHED, OTHER_CRASHED)
    assert await bench.strategy_of() == "fallback_cache"
    counted = worker.metrics.text().decode()
    for strategy, outcome in (("fallback_model", "failed"), ("fallback_cache", "answered")):
        labels = f'outcome="{outcome}",strategy="{strategy}",worker_id="w1"'
        assert f"llm_worker_fallbacks_total{{{labels}}} 1.0" in counted


async def test_a_strategy_that_is_not_named_is_not_asked(bench: Bench) -> None:
    await bench.start("fallback_model", "fallback_cache", fallbacks=["fallback_cache"])
    bench.engine.script(CRASHED)
    with pytest.raises(JobFailed, match="crashed"):
        await bench.result()


async def test_a_job_fails_with_its_first_failure_and_is_told_what_was_tried(
    bench: Bench, valkey: ValkeyFixture
) -> None:
    await bench.start("fallback_model")
    bench.engine.script(CRASHED, attrs.evolve(OTHER_CRASHED, error="out of memory"))
    ref = await bench.client.submit("chat", CHAT)
    with pytest.raises(JobFailed, match=r"^(?!.*out_of_memory).*crashed"):
        await bench.client.result(ref, timeout=WITHIN)
    traces = valkey.client.hget(f"bull:llm-chat:{ref.id}", "stacktrace")
    assert "fallback_model with 'llama3.2:1b' failed too: out_of_memory" in json.loads(traces)[0]


# --- A strategy of a plugin's own ---


class Polite(Fallback):
    """Says sorry, once it has been entered."""

    name: ClassVar[str] = "polite"
    handles = frozenset(FailureClass)
    entered = False

    async def __aenter__(self) -> Self:
        self.entered = True
        return self

    async def answer(self, failed: FailedCall) -> FallbackAnswer | Adjusted | None:
        assert self.entered
        answer = ChatAnswer(model="none", message=Message("assistant", "sorry"))
        return FallbackAnswer(answer=answer, detail={"tenant": failed.asked.askers[0].tenant})


class PolitePlugin:
    @hookimpl
    def worker_core_fallbacks(self) -> list[Fallback]:
        return [Polite()]


POLITE = plugin_under_test("polite", PolitePlugin)


async def test_a_plugin_brings_a_strategy_of_its_own(bench: Bench) -> None:
    await bench.start(extra=[POLITE])
    bench.engine.script(CRASHED)
    result = await bench.result()
    assert result.text == "sorry"
    assert result.model.used == "none"
    # A wrong request is the strategy's, too: it says that it handles everything.
    result = await bench.result(**{**CHAT, "model": "qwen3"}, options={"top_p": "much"})
    assert result.fallback is not None
    assert str(result.fallback["reason"]).startswith("bad_input: ")


@attrs.frozen
class OuterRequest:
    inner: dict[str, Any]
    tenant: str | None = None


class OuterType(JobType[OuterRequest]):
    """Lets a chat answer within its job."""

    name = "outer"
    request = OuterRequest
    queues = (QueueSpec("outer"),)

    def tenant_of(self, request: OuterRequest) -> str | None:
        return request.tenant

    async def run(self, request: OuterRequest, context: JobContext) -> object:
        result = await context.run("chat", request.inner)
        return json.loads(result.envelope)["fallback"]


class OuterPlugin:
    @hookimpl
    def worker_core_job_types(self) -> list[JobType[Any]]:
        return [OuterType()]


@pytest.mark.parametrize(
    ("inner", "outer", "tenant"),
    [(None, None, None), (None, "a", "a"), ("b", "a", "b"), ("b", None, "b"), ("", "a", "")],
)
async def test_a_run_within_a_job_is_for_its_own_tenant_or_for_the_jobs(
    bench: Bench, inner: str | None, outer: str | None, tenant: str | None
) -> None:
    await bench.start(extra=[POLITE, plugin_under_test("outer", OuterPlugin)])
    bench.engine.script(CRASHED)
    data = {"inner": {**CHAT, "metadata": {"tenant": inner}}, "tenant": outer}
    ref = await bench.client.submit("outer", data, queue="outer")
    fallback = (await bench.client.result(ref, timeout=WITHIN)).answer
    assert isinstance(fallback, dict)
    assert (fallback["strategy"], fallback["tenant"]) == ("polite", tenant)


# --- Streams ---


async def test_a_stream_says_that_the_answer_begins_anew(bench: Bench) -> None:
    await bench.start("fallback_model")
    bench.engine.script(
        attrs.evolve(CRASHED, action=FaultAction.ERROR_LINE, after_chunks=2, contains="one")
    )
    items = await bench.stream()
    [restart] = [index for index, item in enumerate(items) if isinstance(item, TokenRestart)]
    assert "".join(chunk.content for chunk in items[:restart] if isinstance(chunk, TokenChunk))
    after = [item for item in items[restart:] if isinstance(item, TokenChunk)]
    assert "".join(item.content for item in after) == "one two three"
    assert isinstance(items[-1], TokenEnd)
    # Nothing is missing: the index goes on.
    assert all(item.missing == 0 for item in items if isinstance(item, TokenChunk))


async def test_a_stream_of_which_nothing_was_out_has_no_new_beginning(bench: Bench) -> None:
    await bench.start("fallback_model")
    bench.engine.script(CRASHED)
    items = await bench.stream()
    assert not [item for item in items if isinstance(item, TokenRestart)]
    assert "".join(i.content for i in items if isinstance(i, TokenChunk)) == "one two three"

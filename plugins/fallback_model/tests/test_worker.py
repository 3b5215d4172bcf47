"""Another model answers, in a real worker on an engine that speaks Ollama's contract."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from pytest_trio import trio_fixture

from worker_core.client import Client, JobFailed, Result, open_client
from worker_core.testing.fake_engine import Behaviour, FakeModel, FaultAction, ScriptedFault
from worker_core.testing.polling import eventually_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from worker_core._runtime.worker import Worker
    from worker_core.testing.fake_engine import FakeEngine
    from worker_core.testing.fixtures import ValkeyFixture

HELLO = [{"role": "user", "content": "one two three"}]
CRASHED = ScriptedFault(
    action=FaultAction.STATUS, status=500, path="/api/chat", model="llama3", count=None
)
TOOL = {"type": "function", "function": {"name": "f"}}


@attrs.define(eq=False)
class Bench:
    client: Client
    engine: FakeEngine
    start_worker: Callable[..., Awaitable[Worker]]

    async def start(
        self, *, batch_size: int = 32, circuit: dict[str, Any] | None = None, **fallback: Any
    ) -> Worker:
        return await self.start_worker(
            {
                "worker": {"plugins": ["chat", "embeddings", "fallback_model"], "id": "w1"},
                "plugins": {
                    "ollama": {
                        "base_url": self.engine.url,
                        "max_retries": 0,
                        "circuit": circuit or {},
                    },
                    "embeddings": {"batch_size": batch_size},
                    "fallback_model": fallback,
                },
            }
        )

    async def result(self, job_type: str = "chat", **data: Any) -> Result:
        base = {"model": "llama3", "messages": HELLO} if job_type == "chat" else {}
        ref = await self.client.submit(job_type, {**base, **data})
        return await self.client.result(ref, timeout=timedelta(seconds=10))


@trio_fixture
async def bench(
    valkey: ValkeyFixture,
    fake_engine: FakeEngine,
    start_worker: Callable[..., Awaitable[Worker]],
) -> AsyncIterator[Bench]:
    async with open_client(valkey.url) as client:
        yield Bench(client, fake_engine, start_worker)


async def test_another_model_answers_and_envelope_and_metric_say_so(bench: Bench) -> None:
    worker = await bench.start(models=["gone", "llama3.2:1b"])
    bench.engine.script(CRASHED)
    result = await bench.result()
    assert result.text == "one two three"
    assert (result.model.asked, result.model.used) == ("llama3", "llama3.2:1b")
    assert result.fallback is not None
    assert result.fallback["strategy"] == "fallback_model"
    reason = result.fallback["reason"]
    assert isinstance(reason, str)
    assert reason.startswith("crashed: ")
    assert list(result.fallback) == ["strategy", "reason"]
    counted = 'llm_worker_fallbacks_total{outcome="answered",strategy="fallback_model",worker_id="w1"} 1.0'
    assert counted in worker.metrics.text().decode().splitlines()
    # One that answers itself says nothing of a fallback.
    other = await bench.result(model="qwen3")
    assert other.fallback is None


async def test_a_model_that_cannot_do_it_is_left_out(bench: Bench) -> None:
    bench.engine.behaviour = Behaviour(
        models=(
            FakeModel(name="llama3", capabilities=("completion", "tools")),
            FakeModel(name="plain", capabilities=("completion",)),
            FakeModel(name="short", context_length=1),
            FakeModel(name="able"),
        )
    )
    await bench.start(models=["plain", "short", "able"])
    bench.engine.script(CRASHED)
    assert (await bench.result(tools=[TOOL])).model.used == "able"
    assert (await bench.result()).model.used == "plain"
    # Asked once for each, however many jobs there are.
    await bench.result(tools=[TOOL])
    shown = [request for request in bench.engine.log.requests if request.path == "/api/show"]
    assert len(shown) == 3


async def test_when_all_fail_the_first_failure_is_told(bench: Bench) -> None:
    await bench.start(models=["llama3.2:1b"])
    bench.engine.script(CRASHED, attrs.evolve(CRASHED, model="llama3.2:1b", error="out of memory"))
    with pytest.raises(JobFailed, match=r"crashed: .*llama3"):
        await bench.result()
    assert bench.engine.log.count("/api/chat") >= 2


async def test_it_can_be_turned_off(bench: Bench) -> None:
    await bench.start(models=["llama3.2:1b"], enabled=False)
    bench.engine.script(CRASHED)
    with pytest.raises(JobFailed, match="crashed"):
        await bench.result()


async def test_embeddings_are_of_another_model_only_where_it_is_named(bench: Bench) -> None:
    await bench.start(models=["llama3.2:1b"], embeddings={"all-minilm": ["nomic-embed-text"]})
    result = await bench.result("embeddings", model="all-minilm", input=["a", "b"])
    assert result.model.used == "nomic-embed-text"
    assert result.fallback is not None
    with pytest.raises(JobFailed, match="model_missing"):
        await bench.result("embeddings", model="bge", input=["a", "b"])


async def test_a_jobs_vectors_are_of_one_model_alone(bench: Bench) -> None:
    bench.engine.behaviour = Behaviour(
        models=tuple(
            FakeModel(name=name, capabilities=("embedding",)) for name in ("one-embed", "two-embed")
        )
    )
    await bench.start(batch_size=1, embeddings={"one-embed": ["two-embed"]})
    bench.engine.script(
        ScriptedFault(
            action=FaultAction.STATUS,
            path="/api/embed",
            model="one-embed",
            contains="b",
            count=None,
        )
    )
    with pytest.raises(JobFailed, match=r"incomplete: .*of another model: one-embed, two-embed"):
        await bench.result("embeddings", model="one-embed", input=["a", "b"])
    result = await bench.result("embeddings", model="one-embed", input=["b", "bb"])
    assert result.model.used == "two-embed"


async def test_jobs_are_answered_while_the_models_circuit_is_open_and_by_it_when_it_is_back(
    bench: Bench,
) -> None:
    circuit = {"consecutive": 2, "open_for": "300ms", "max_open": "300ms"}
    worker = await bench.start(models=["llama3.2:1b"], circuit=circuit)
    assert (await bench.result()).fallback is None
    bench.engine.script(CRASHED)
    reasons = []
    for _ in range(4):
        result = await bench.result()
        assert result.model.used == "llama3.2:1b"
        assert result.fallback is not None
        reasons.append(str(result.fallback["reason"]).partition(":")[0])
    # Two calls find out; from then on nobody waits for the model.
    assert reasons == ["crashed", "crashed", "circuit_open", "circuit_open"]
    states = worker.metrics.text().decode()
    assert 'circuit="chat:llama3",host=' in states
    bench.engine.faults.clear()

    async def is_back() -> bool:
        return (await bench.result()).model.used == "llama3"

    await eventually_async(is_back)


async def test_a_fallback_whose_circuit_is_open_is_not_asked(bench: Bench) -> None:
    circuit = {"consecutive": 1, "open_for": "1m"}
    await bench.start(models=["llama3.2:1b", "qwen3"], circuit=circuit)
    bench.engine.script(CRASHED, attrs.evolve(CRASHED, model="llama3.2:1b"))
    assert (await bench.result()).model.used == "qwen3"
    tried = [request.model for request in bench.engine.log.requests]
    assert (await bench.result()).model.used == "qwen3"
    since = [request.model for request in bench.engine.log.requests][len(tried) :]
    assert set(since) == {"qwen3"}

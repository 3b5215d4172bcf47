"""Chat jobs in a worker, on an engine that speaks Ollama's contract over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from pytest_trio import trio_fixture

from worker_core._bullmq.adding import AddOptions, add
from worker_core._bullmq.keys import QueueKeys
from worker_core.testing.fake_engine import FaultAction, RequestOutcome, ScriptedFault
from worker_core.testing.polling import eventually_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker_core._runtime.worker import Worker
    from worker_core.testing.fake_engine import FakeEngine
    from worker_core.testing.fixtures import ValkeyFixture

HELLO = [{"role": "user", "content": "one two three"}]
KEYS = QueueKeys("bull", "llm-chat")


@attrs.define(eq=False)
class Bench:
    """A worker with the chat plugin, and the queue that feeds it."""

    valkey: ValkeyFixture
    engine: FakeEngine
    start_worker: Callable[..., Awaitable[Worker]]

    async def start(self, **chat: Any) -> None:
        settings = {
            "worker": {"plugins": ["chat"]},
            "plugins": {"ollama": {"base_url": self.engine.url}, "chat": chat},
        }
        await self.start_worker(settings)

    def put(self, data: object, *, attempts: int = 1) -> str:
        call = add(KEYS, "job", json.dumps(data).encode(), AddOptions(attempts=attempts))
        client = self.valkey.client
        job_id: bytes = client.eval(call.script.source, len(call.keys), *call.keys, *call.args)
        return job_id.decode()

    async def end_of(self, job_id: str, state: str) -> dict[bytes, bytes]:
        where = KEYS.completed if state == "completed" else KEYS.failed
        client = self.valkey.client
        await eventually_async(
            lambda: client.zscore(where, job_id) is not None,
            what=f"job {job_id} is {state}: {client.hgetall(KEYS.job(job_id))}",
        )
        fields: dict[bytes, bytes] = client.hgetall(KEYS.job(job_id))
        return fields

    async def answer_to(self, **data: Any) -> dict[str, Any]:
        """Run a job to its completion and return the envelope."""
        job_id = self.put({"model": "llama3", "messages": HELLO, **data})
        envelope: dict[str, Any] = json.loads(
            (await self.end_of(job_id, "completed"))[b"returnvalue"]
        )
        return envelope

    async def failure_of(self, *, attempts: int = 1, **data: Any) -> str:
        """Run a job to its failure and return the reason."""
        job_id = self.put({"model": "llama3", "messages": HELLO, **data}, attempts=attempts)
        fields = await self.end_of(job_id, "failed")
        # However many attempts it had: for good means at once.
        if attempts > 1:
            assert fields[b"atm"] == b"1"
        return fields[b"failedReason"].decode()

    def phases_of(self, job_id: str) -> list[str]:
        """The phases that were published, repetitions left out."""
        found: list[str] = []
        for _, fields in self.valkey.client.xrange(KEYS.events):
            if fields[b"event"] == b"progress" and fields[b"jobId"] == job_id.encode():
                phase = json.loads(fields[b"data"])["phase"]
                if found[-1:] != [phase]:
                    found.append(phase)
        return found


@trio_fixture
async def bench(
    valkey: ValkeyFixture,
    fake_engine: FakeEngine,
    start_worker: Callable[..., Awaitable[Worker]],
) -> Bench:
    return Bench(valkey, fake_engine, start_worker)


async def test_an_answer_is_ollamas_own_in_an_envelope(bench: Bench) -> None:
    await bench.start()
    envelope = await bench.answer_to(options={"num_ctx": 512})
    answer = envelope.pop("answer")
    assert answer["message"] == {"role": "assistant", "content": "one two three"}
    assert answer["model"] == "llama3"
    assert answer["done"] is True
    assert answer["done_reason"] == "stop"
    assert {"created_at", "total_duration", "eval_count", "eval_duration"} <= answer.keys()
    timings = envelope.pop("timings")
    assert timings.keys() == {
        "queue_wait_ms",
        "admission_ms",
        "load_ms",
        "first_token_ms",
        "total_ms",
    }
    assert 0 < timings["first_token_ms"] <= timings["total_ms"]
    worker = envelope.pop("worker")
    assert worker
    usage = {
        "prompt_tokens": answer["prompt_eval_count"],
        "completion_tokens": answer["eval_count"],
    }
    warnings = envelope.pop("warnings")
    assert envelope == {
        "type": "chat",
        "model": {"asked": "llama3", "used": "llama3"},
        "usage": {**usage, "total_tokens": sum(usage.values())},
        "fallback": None,
        "attempt": 1,
    }
    assert all("num_ctx" in warning for warning in warnings)


async def test_what_nobody_reads_is_warned_of(bench: Bench) -> None:
    await bench.start()
    envelope = await bench.answer_to(temprature=0.5, metadata={"a": 1})
    assert envelope["warnings"] == ["unknown member 'temprature' was ignored"]


async def test_the_spellings_reach_the_engine_as_options(bench: Bench) -> None:
    await bench.start()
    envelope = await bench.answer_to(max_tokens=2, temperature=0, seed=1)
    assert envelope["answer"]["message"]["content"].split() == ["one", "two"]
    assert envelope["answer"]["done_reason"] == "length"
    (call,) = [call for call in bench.engine.log.select("/api/chat") if call.inputs]
    assert set(call.options) == {"num_predict", "temperature", "seed"}


async def test_every_fault_of_the_data_is_named_by_its_path_and_none_is_tried_again(
    bench: Bench,
) -> None:
    await bench.start()
    reason = await bench.failure_of(
        attempts=5, messages=[{"role": "user"}, {"role": "robot"}], temperature=-1, timeout="soon"
    )
    assert reason.startswith("invalid request: ")
    for path in ("messages[1].role: ", "temperature: ", "timeout: "):
        assert path in reason
    assert bench.engine.log.total == 0


async def test_what_is_said_twice_fails_at_once(bench: Bench) -> None:
    await bench.start()
    reason = await bench.failure_of(attempts=5, seed=1, options={"seed": 2})
    assert reason == "invalid request: seed: is said again by options.seed; give one of them"


async def test_models_are_allowed_as_ollama_compares_names(bench: Bench) -> None:
    await bench.start(allowed_models=["Llama3", "qwen3:8b"])
    assert (await bench.answer_to(model="llama3:latest"))["answer"]["done"] is True
    reason = await bench.failure_of(attempts=5, model="qwen3")
    assert reason == (
        "invalid request: model: 'qwen3' is not allowed; allowed are: Llama3, qwen3:8b"
    )


async def test_a_prompt_over_the_limit_is_refused_with_both_numbers(bench: Bench) -> None:
    await bench.start(max_prompt_chars=20)
    assert (await bench.answer_to())["answer"]["done"] is True
    reason = await bench.failure_of(
        attempts=5,
        messages=[{"role": "user", "content": "x" * 15}, {"role": "user", "content": "x" * 6}],
    )
    assert "messages: 21 characters are over the limit of 20" in reason
    assert "plugins.chat.max_prompt_chars" in reason


@pytest.mark.parametrize("form", ["json", {"type": "object"}])
async def test_json_that_was_asked_for_comes_or_the_attempt_fails(
    bench: Bench, form: object
) -> None:
    await bench.start()
    envelope = await bench.answer_to(format=form)
    json.loads(envelope["answer"]["message"]["content"])
    bench.engine.behaviour = attrs.evolve(bench.engine.behaviour, ignore_format=True)
    reason = await bench.failure_of(format=form)
    assert reason == "incomplete: the answer is not the JSON that format asks for"


async def test_json_that_was_cut_off_is_told_to_be_so(bench: Bench) -> None:
    fault = ScriptedFault(action=FaultAction.ANSWER, text='{"a": [1, 2, 3, 4, 5, 6]}')
    bench.engine.script(attrs.evolve(fault, path="/api/chat", contains="one two three"))
    await bench.start()
    reason = await bench.failure_of(format="json", max_tokens=2)
    assert "it was cut off: done_reason is length" in reason


async def test_an_answer_that_is_not_the_json_asked_for_is_not_quoted(bench: Bench) -> None:
    bench.engine.behaviour = attrs.evolve(bench.engine.behaviour, ignore_format=True)
    await bench.start()
    reason = await bench.failure_of(
        format="json", messages=[{"role": "user", "content": "private words"}]
    )
    assert "private" not in reason


async def test_a_job_may_ask_for_less_time_and_its_call_is_ended(bench: Bench) -> None:
    bench.engine.behaviour = attrs.evolve(bench.engine.behaviour, prefill_seconds=30.0)
    await bench.start()
    assert await bench.failure_of(timeout=150) == "the job did not end within 0.15 s"
    assert await bench.failure_of(timeout="200ms") == "the job did not end within 0.2 s"

    def calls_ended() -> bool:
        calls = [call for call in bench.engine.log.select("/api/chat") if call.inputs]
        return [call.outcome for call in calls] == [RequestOutcome.DISCONNECTED] * 2

    await eventually_async(calls_ended, what="the engine sees that both clients went")


async def test_a_job_cannot_ask_for_more_time_than_the_worker_allows(bench: Bench) -> None:
    bench.engine.behaviour = attrs.evolve(bench.engine.behaviour, prefill_seconds=30.0)
    await bench.start(timeout="150ms")
    assert await bench.failure_of(timeout="10m") == "the job did not end within 0.15 s"


async def test_loading_does_not_count_on_the_jobs_time(bench: Bench) -> None:
    bench.engine.behaviour = attrs.evolve(bench.engine.behaviour, load_seconds=0.6)
    await bench.start(timeout="400ms")
    envelope = await bench.answer_to()
    assert envelope["timings"]["admission_ms"] >= 600


async def test_a_model_that_is_not_there_fails_for_good(bench: Bench) -> None:
    await bench.start()
    assert (await bench.failure_of(attempts=5, model="nosuch")).startswith("model_missing: ")


async def test_the_phases_are_published_in_order_and_loading_only_while_the_model_loads(
    bench: Bench,
) -> None:
    # Longer than half a second each: progress is published twice a second at the most.
    bench.engine.behaviour = attrs.evolve(
        bench.engine.behaviour, load_seconds=0.6, prefill_seconds=0.7
    )
    await bench.start()
    first = bench.put({"model": "llama3", "messages": HELLO})
    await bench.end_of(first, "completed")
    second = bench.put({"model": "llama3:latest", "messages": HELLO})
    await bench.end_of(second, "completed")
    assert bench.phases_of(first) == ["loading", "waiting", "generating"]
    assert bench.phases_of(second) == ["waiting", "generating"]


async def test_tokens_are_counted_as_they_come(bench: Bench) -> None:
    bench.engine.behaviour = attrs.evolve(bench.engine.behaviour, token_seconds=0.25, tokens=5)
    await bench.start()
    job_id = bench.put({"model": "llama3", "messages": HELLO})
    fields = await bench.end_of(job_id, "completed")
    assert json.loads(fields[b"progress"])["phase"] == "generating"
    assert json.loads(fields[b"progress"])["tokens"] >= 1

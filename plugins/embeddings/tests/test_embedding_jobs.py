"""Embedding jobs through the whole worker: real Valkey, real HTTP, the fake engine's log."""

from __future__ import annotations

import base64
import json
import struct
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from worker_core.client import CancelOutcome, JobRef, open_client
from worker_core.testing.fake_engine import (
    Behaviour,
    FakeEngine,
    FaultAction,
    LoggedRequest,
    ScriptedFault,
    embedding,
    open_fake_engine,
)
from worker_core.testing.polling import eventually_async
from worker_core.testing.workers import build_worker, run_worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker_core.client import Client
    from worker_core.testing.fixtures import ValkeyFixture

    StartWorker = Callable[..., Awaitable[Any]]

MODEL = "nomic-embed-text"
DIMENSIONS = 768
QUEUE = "llm-embeddings"
TOO_LONG = "the input length exceeds the context length"


def settings_for(engine: FakeEngine, **embeddings: object) -> dict[str, Any]:
    return {
        "worker": {"plugins": ["embeddings"], "engine": "ollama", "grace": "5s"},
        "plugins": {
            "ollama": {"base_url": engine.url, "max_retries": 0},
            "embeddings": embeddings,
        },
    }


async def put(client: Client, inputs: Sequence[object], **members: object) -> list[str]:
    ids = []
    for one in inputs:
        data = {"model": MODEL, "input": one, **members}
        ids.append((await client.submit("embeddings", data, queue=QUEUE)).id)
    return ids


async def settled(valkey: ValkeyFixture, ids: Sequence[str]) -> None:
    def all_are() -> bool:
        return all(
            valkey.client.zscore(f"bull:{QUEUE}:completed", one) is not None
            or valkey.client.zscore(f"bull:{QUEUE}:failed", one) is not None
            for one in ids
        )

    await eventually_async(all_are, within=20, what="every job has ended")


def envelope_of(valkey: ValkeyFixture, job_id: str) -> Any:
    raw = valkey.client.hget(f"bull:{QUEUE}:{job_id}", "returnvalue")
    assert raw is not None, valkey.client.hget(f"bull:{QUEUE}:{job_id}", "failedReason")
    envelope = json.loads(raw)
    if "stored" in envelope:
        return json.loads(valkey.client.get(envelope["stored"]["key"]) or "null")
    return envelope


def reason_of(valkey: ValkeyFixture, job_id: str) -> str:
    return (valkey.client.hget(f"bull:{QUEUE}:{job_id}", "failedReason") or b"").decode()


def calls(engine: FakeEngine) -> list[LoggedRequest]:
    """The calls that computed something: a load is a call without inputs."""
    return [request for request in engine.log.select("/api/embed") if request.inputs]


def vectors_of(texts: Sequence[str], dimensions: int = DIMENSIONS) -> list[list[float]]:
    return [list(embedding(text, dimensions)) for text in texts]


# --- Batches ---


async def test_under_defaults_200_jobs_of_one_input_fill_their_calls(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    texts = [f"text number {number}" for number in range(200)]
    async with open_client(valkey.url) as client:
        ids = await put(client, texts)
    await start_worker(settings_for(fake_engine))
    await settled(valkey, ids)
    sizes = [request.inputs for request in calls(fake_engine)]
    assert sum(sizes) == 200
    assert max(sizes) <= 32
    assert sum(sizes) / len(sizes) >= 16, sizes
    for text, job_id in zip(texts, ids, strict=True):
        envelope = envelope_of(valkey, job_id)
        assert envelope["type"] == "embeddings"
        assert envelope["answer"]["embeddings"] == vectors_of([text])


async def test_jobs_that_come_while_the_worker_runs_share_calls_too(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    await start_worker(settings_for(fake_engine))
    async with open_client(valkey.url) as client, anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(put, client, [f"text {number}"])
    await settled(valkey, [str(number) for number in range(1, 201)])
    sizes = [request.inputs for request in calls(fake_engine)]
    assert sum(sizes) == 200
    assert len(sizes) < 100


@pytest.mark.parametrize("slots", [3, 64])
async def test_no_call_waits_for_jobs_that_cannot_come(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker, slots: int
) -> None:
    # Neither with a queue that is empty nor with slots that are full does the hour pass.
    queues = [{"name": QUEUE, "concurrency": slots}, {"name": "express", "express": True}]
    await start_worker(settings_for(fake_engine, queues=queues, batch_timeout="1h"))
    async with open_client(valkey.url) as client:
        for count in (1, 7):
            ids = await put(client, [f"text {number}" for number in range(count)])
            await settled(valkey, ids)
    assert sum(request.inputs for request in calls(fake_engine)) == 8


async def test_a_job_of_many_inputs_gets_its_vectors_in_their_order_and_tells_how_far_it_is(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    many = [f"part {number}" for number in range(1500)]
    few = ["one", "two", "three"]
    async with open_client(valkey.url) as client:
        ids = await put(client, [many, few, "alone"])
    await start_worker(settings_for(fake_engine))
    await settled(valkey, ids)
    for texts, job_id in zip((many, few, ["alone"]), ids, strict=True):
        answer = envelope_of(valkey, job_id)["answer"]
        assert answer["embeddings"] == vectors_of(texts)
        assert answer["dimensions"] == DIMENSIONS
        assert answer["model"] == MODEL
    assert max(request.inputs for request in calls(fake_engine)) <= 32
    # Its result is large: it is kept under a key of its own.
    pointer = json.loads(valkey.client.hget(f"bull:{QUEUE}:{ids[0]}", "returnvalue") or "")
    assert pointer["stored"]["bytes"] > 1_000_000
    progress = json.loads(valkey.client.hget(f"bull:{QUEUE}:{ids[0]}", "progress") or "null")
    assert progress["total"] == 1500
    assert 0 < progress["done"] <= 1500


async def test_each_job_gets_its_share_of_the_tokens_and_the_same_admission(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    texts = ["one", "one two three four", ["one two", "three"]]
    async with open_client(valkey.url) as client:
        ids = await put(client, texts)
    await start_worker(settings_for(fake_engine))
    await settled(valkey, ids)
    assert [request.inputs for request in calls(fake_engine)] == [4]
    envelopes = [envelope_of(valkey, job_id) for job_id in ids]
    tokens = [envelope["usage"]["prompt_tokens"] for envelope in envelopes]
    assert sum(tokens) == 8
    assert tokens[1] > tokens[0]
    assert {envelope["timings"]["admission_ms"] for envelope in envelopes} != {0.0}
    assert {envelope["model"]["used"] for envelope in envelopes} == {MODEL}


async def test_only_inputs_that_are_asked_for_alike_share_a_call(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    async with open_client(valkey.url) as client:
        plain = await put(client, ["a", "b"])
        short = await put(client, ["c", "d"], dimensions=16)
        whole = await put(client, ["e"], truncate=False)
        options = await put(client, ["f"], options={"num_keep": 1})
    await start_worker(settings_for(fake_engine))
    await settled(valkey, [*plain, *short, *whole, *options])
    assert sorted(request.inputs for request in calls(fake_engine)) == [1, 1, 2, 2]
    assert envelope_of(valkey, short[0])["answer"]["embeddings"] == vectors_of(["c"], 16)
    assert envelope_of(valkey, short[0])["answer"]["dimensions"] == 16


async def test_without_batches_every_job_has_calls_of_its_own(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    async with open_client(valkey.url) as client:
        ids = await put(client, ["a", "b", [f"text {n}" for n in range(40)]])
    await start_worker(settings_for(fake_engine, batch_enabled=False))
    await settled(valkey, ids)
    assert sorted(request.inputs for request in calls(fake_engine)) == [1, 1, 8, 32]
    texts = [f"text {n}" for n in range(40)]
    assert envelope_of(valkey, ids[2])["answer"]["embeddings"] == vectors_of(texts)


async def test_vectors_of_one_model_are_computed_for_one_call_at_a_time(
    valkey: ValkeyFixture, start_worker: StartWorker
) -> None:
    behaviour = Behaviour(disturb_concurrent_embeddings=True, embed_call_seconds=0.01)
    async with open_fake_engine(behaviour) as engine:
        async with open_client(valkey.url) as client:
            # Two kinds of calls to one model.
            ids = await put(client, ["a", "b"]) + await put(client, ["a", "b"], truncate=False)
        await start_worker(settings_for(engine))
        await settled(valkey, ids)
        for text, job_id in zip("abab", ids, strict=True):
            assert envelope_of(valkey, job_id)["answer"]["embeddings"] == vectors_of([text])


async def test_base64_is_little_endian_float32(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    async with open_client(valkey.url) as client:
        numbers = await put(client, ["a"])
        packed = await put(client, ["a"], encoding_format="base64")
    await start_worker(settings_for(fake_engine))
    await settled(valkey, numbers + packed)
    # What is only written otherwise may share a call.
    assert [request.inputs for request in calls(fake_engine)] == [2]
    (text,) = envelope_of(valkey, packed[0])["answer"]["embeddings"]
    found = struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(text))
    assert found == pytest.approx(embedding("a", DIMENSIONS), abs=1e-7)


# --- Faults ---


def refused(
    status: int = 400, error: str | None = TOO_LONG, contains: str = "poison"
) -> ScriptedFault:
    return ScriptedFault(
        action=FaultAction.STATUS,
        status=status,
        error=error,
        path="/api/embed",
        contains=contains,
        count=None,
    )


async def test_an_input_at_fault_fails_its_own_job_and_no_other(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    fake_engine.script(refused())
    texts: list[object] = [f"text {number}" for number in range(20)]
    texts[7] = "poison"
    texts[13] = ["fine", "fine too", "poison again", "fine as well"]
    async with open_client(valkey.url) as client:
        ids = await put(client, texts)
    await start_worker(settings_for(fake_engine))
    await settled(valkey, ids)
    reasons = {index: reason_of(valkey, job_id) for index, job_id in enumerate(ids)}
    failed = {index: reason for index, reason in reasons.items() if reason}
    assert set(failed) == {7, 13}
    assert "longer than the context" in failed[7]
    assert failed[13].startswith("bad_input: input[2]: ")
    assert envelope_of(valkey, ids[6])["answer"]["embeddings"] == vectors_of(["text 6"])


async def test_vectors_that_are_none_are_found_by_halving_too(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    fault = ScriptedFault(
        action=FaultAction.GARBAGE,
        text='{"model": "m", "embeddings": [[1.0, 1e999]]}',
        path="/api/embed",
        contains="poison",
        count=None,
    )
    fake_engine.script(fault)
    async with open_client(valkey.url) as client:
        ids = await put(client, ["a", "b", "poison", "c"])
    await start_worker(settings_for(fake_engine))
    await settled(valkey, ids)
    failed = [job_id for job_id in ids if reason_of(valkey, job_id)]
    assert failed == [ids[2]]
    assert reason_of(valkey, ids[2]).startswith("incomplete: ")


async def test_a_server_in_trouble_fails_the_call_and_is_not_asked_for_each_input(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    texts = [f"text {number}" for number in range(16)]
    async with open_client(valkey.url) as client:
        # A runner that dies may be one input's doing, a busy server cannot.
        for status, limit in ((500, 3), (503, 1)):
            fake_engine.script(refused(status, None, contains="text"))
            if status == 500:
                await start_worker(settings_for(fake_engine))
            fake_engine.log.clear()
            async with anyio.create_task_group() as tasks:
                ids: list[str] = []

                async def one(text: str, ids: list[str] = ids) -> None:
                    ids.extend(await put(client, [text]))

                for text in texts:
                    tasks.start_soon(one, text)
            await settled(valkey, ids)
            assert all(reason_of(valkey, job_id) for job_id in ids)
            # They may have come as two batches, the first of one job.
            assert len(calls(fake_engine)) <= 2 * limit
            fake_engine.faults.clear()


async def test_a_dimension_that_the_model_does_not_give_is_named(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    async with open_client(valkey.url) as client:
        ids = await put(client, ["a", "b"], dimensions=1024)
    await start_worker(settings_for(fake_engine))
    await settled(valkey, ids)
    for job_id in ids:
        assert reason_of(valkey, job_id) == (
            "unsupported: 'nomic-embed-text' gives vectors of 768 dimensions, "
            "not of the 1024 asked for"
        )
    assert len(calls(fake_engine)) == 1


async def test_what_a_request_may_not_be_is_named_with_every_fault(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    limits = {"allowed_models": ["minilm"], "max_inputs": 2, "max_input_chars": 5}
    await start_worker(settings_for(fake_engine, **limits))
    async with open_client(valkey.url) as client:
        ids = await put(client, [["a", "too long", "c"]])
    await settled(valkey, ids)
    assert reason_of(valkey, ids[0]) == (
        "invalid request: model: 'nomic-embed-text' is not allowed; allowed are: minilm; "
        "input: 3 texts are over the limit of 2 (plugins.embeddings.max_inputs); "
        "input[1]: 8 characters are over the limit of 5 (plugins.embeddings.max_input_chars)"
    )
    assert not calls(fake_engine)


# --- Each job's own end ---


async def test_a_job_whose_time_runs_out_leaves_the_others_in_the_call(
    valkey: ValkeyFixture, start_worker: StartWorker
) -> None:
    async with open_fake_engine(Behaviour(embed_call_seconds=0.5)) as engine:
        async with open_client(valkey.url) as client:
            hasty = await put(client, ["hasty"], timeout="100ms")
            patient = await put(client, ["a", "b"])
        await start_worker(settings_for(engine))
        await settled(valkey, hasty + patient)
        assert reason_of(valkey, hasty[0]) == "the job did not end within 0.1 s"
        assert [request.inputs for request in calls(engine)] == [3]
        for text, job_id in zip("ab", patient, strict=True):
            assert envelope_of(valkey, job_id)["answer"]["embeddings"] == vectors_of([text])


async def test_a_job_that_is_cancelled_leaves_the_others_in_the_call(
    valkey: ValkeyFixture, start_worker: StartWorker
) -> None:
    async with open_fake_engine(Behaviour(embed_call_seconds=0.7)) as engine:
        async with open_client(valkey.url) as client:
            ids = await put(client, ["a", "b", "c"])
            await start_worker(settings_for(engine))
            await eventually_async(lambda: calls(engine), what="the call is under way")
            outcome = await client.cancel(JobRef(id=ids[1], queue=QUEUE), wait=timedelta(seconds=5))
            assert outcome is CancelOutcome.CANCELLED
            # Long before its call ends.
            assert [request.ended for request in calls(engine)] == [None]
            await settled(valkey, ids)
        assert [bool(reason_of(valkey, job_id)) for job_id in ids] == [False, True, False]
        assert [request.inputs for request in calls(engine)] == [3]
        assert envelope_of(valkey, ids[2])["answer"]["embeddings"] == vectors_of(["c"])


async def test_no_jobs_time_runs_while_a_model_is_loaded_for_it_or_for_those_before(
    valkey: ValkeyFixture, start_worker: StartWorker
) -> None:
    async with open_fake_engine(Behaviour(load_seconds=1.0)) as engine:
        async with open_client(valkey.url) as client:
            # More than a call holds: the others wait behind it.
            ids = await put(client, [f"text {number}" for number in range(40)], timeout="800ms")
        await start_worker(settings_for(engine))
        await settled(valkey, ids)
        timings = [envelope_of(valkey, job_id)["timings"] for job_id in ids]
        assert all(one["admission_ms"] > 800 for one in timings)


async def test_a_call_whose_jobs_have_all_gone_is_cancelled(
    valkey: ValkeyFixture, fake_engine: FakeEngine, start_worker: StartWorker
) -> None:
    hang = ScriptedFault(action=FaultAction.HANG, path="/api/embed", contains="text")
    fake_engine.script(hang)
    async with open_client(valkey.url) as client:
        ids = await put(client, ["text 1", "text 2"], timeout="200ms")
        await start_worker(settings_for(fake_engine))
        await settled(valkey, ids)
        await fake_engine.log.wait_until(
            lambda log: [r.disconnected for r in log.select("/api/embed") if r.inputs] == [True]
        )
        # The model is free for the next call.
        after = await put(client, ["after"])
        await settled(valkey, after)
    assert envelope_of(valkey, after[0])["answer"]["embeddings"] == vectors_of(["after"])


@pytest.mark.parametrize("grace", ["5s", "100ms"])
async def test_a_stop_in_the_middle_of_a_batch_finishes_it_or_gives_every_job_back(
    valkey: ValkeyFixture, grace: str
) -> None:
    async with open_fake_engine(Behaviour(embed_call_seconds=0.7)) as engine:
        async with open_client(valkey.url) as client:
            ids = await put(client, [f"text {number}" for number in range(40)])
        settings = settings_for(engine) | {"redis": {"url": valkey.url}}
        settings["worker"]["grace"] = grace
        worker = build_worker(settings)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                await tasks.start(run_worker, worker)
                await eventually_async(lambda: calls(engine), what="a call is under way")
                await eventually_async(lambda: not valkey.client.llen(f"bull:{QUEUE}:wait"))
                worker.request_stop("the test says so")
        done = valkey.client.zcard(f"bull:{QUEUE}:completed")
        back = valkey.client.llen(f"bull:{QUEUE}:wait")
        assert valkey.client.llen(f"bull:{QUEUE}:active") == 0
        assert (done, back) == ((40, 0) if grace == "5s" else (0, 40))
        if back:
            assert valkey.client.hget(f"bull:{QUEUE}:{ids[0]}", "atm") in {None, b"0"}
            assert all(request.disconnected for request in calls(engine))

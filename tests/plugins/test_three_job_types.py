"""The contract carries three job types: chat, echo, and one that collects ten jobs into one call."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Self

import anyio
import attrs
import pytest

from worker_core import (
    EmbedCall,
    EngineError,
    JobContext,
    JobType,
    QueueSpec,
    hookimpl,
)
from worker_core._bullmq.adding import AddOptions, add
from worker_core._bullmq.keys import QueueKeys
from worker_core.testing.fake_engine import (
    FaultAction,
    LoggedRequest,
    ScriptedFault,
    embedding,
)
from worker_core.testing.polling import eventually_async
from worker_core.testing.workers import build_worker, plugin_under_test, run_worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from worker_core._runtime.worker import Worker
    from worker_core.testing.fake_engine import FakeEngine
    from worker_core.testing.fixtures import ValkeyFixture

MODEL = "nomic-embed-text"
TOGETHER = 10


# --- The third job type, as a third party would write it ---


@attrs.frozen
class CollectRequest:
    text: str


@attrs.define(eq=False)
class _Waiting:
    """One job that waits for its part of a call."""

    request: CollectRequest
    context: JobContext
    done: anyio.Event = attrs.field(factory=anyio.Event)
    vector: tuple[float, ...] | None = None
    error: EngineError | None = None


class CollectJobType(JobType[CollectRequest]):
    """Collects ten jobs, and embeds their texts in one call of a task of its own."""

    name: ClassVar[str] = "collect"
    request: ClassVar[type[CollectRequest]] = CollectRequest
    queues = (QueueSpec("collect", concurrency=TOGETHER),)
    timeout = timedelta(seconds=20)

    def __init__(self) -> None:
        self._collected: list[_Waiting] = []
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    async def run(self, request: CollectRequest, context: JobContext) -> dict[str, Any]:
        waiting = _Waiting(request, context)
        self._collected.append(waiting)
        if len(self._collected) == TOGETHER:
            batch, self._collected = self._collected, []
            self._tasks.start_soon(self._embed, batch)
        try:
            await waiting.done.wait()
        finally:
            if waiting in self._collected:
                self._collected.remove(waiting)
        if waiting.error is not None:
            raise waiting.error.copy() from waiting.error
        return {"text": request.text, "vector": waiting.vector}

    async def _embed(self, batch: list[_Waiting]) -> None:
        call = EmbedCall(model=MODEL, input=tuple(one.request.text for one in batch))
        try:
            answer = await batch[0].context.engine.embed(call)
        except EngineError as error:
            for waiting in batch:
                waiting.error = error
        else:
            for waiting, vector in zip(batch, answer.embeddings, strict=True):
                waiting.vector = vector
        finally:
            for waiting in batch:
                waiting.done.set()


class CollectPlugin:
    @hookimpl
    def worker_core_job_types(self) -> list[JobType[Any]]:
        return [CollectJobType()]


class CrashingPlugin:
    """The same, whose own task crashes."""

    @hookimpl
    def worker_core_job_types(self) -> list[JobType[Any]]:
        class Crashing(CollectJobType):
            async def _embed(self, batch: list[_Waiting]) -> None:
                raise RuntimeError("a bug in the collecting task")

        return [Crashing()]


COLLECT = plugin_under_test("collect", CollectPlugin)


# --- Running them ---


def put(valkey: ValkeyFixture, queue: str, data: object, *, attempts: int = 1) -> str:
    keys = QueueKeys("bull", queue)
    call = add(keys, "job", json.dumps(data).encode(), AddOptions(attempts=attempts))
    job_id: bytes = valkey.client.eval(call.script.source, len(call.keys), *call.keys, *call.args)
    return job_id.decode()


async def finished(valkey: ValkeyFixture, queue: str, ids: list[str], state: str) -> None:
    await eventually_async(
        lambda: all(valkey.client.zscore(f"bull:{queue}:{state}", one) for one in ids),
        what=f"jobs {ids} of {queue} are {state}",
    )


def envelope_of(valkey: ValkeyFixture, queue: str, job_id: str) -> Any:
    return json.loads(valkey.client.hget(f"bull:{queue}:{job_id}", "returnvalue") or "null")


def embed_calls(engine: FakeEngine) -> list[LoggedRequest]:
    """The calls that computed something: a load is a call without inputs."""
    return [request for request in engine.log.select("/api/embed") if request.inputs]


def settings_for(engine: FakeEngine, *plugins: str) -> dict[str, Any]:
    return {
        "worker": {"plugins": list(plugins), "grace": "2s"},
        "plugins": {"ollama": {"base_url": engine.url}},
    }


async def test_chat_echo_and_collecting_run_side_by_side(
    valkey: ValkeyFixture,
    fake_engine: FakeEngine,
    start_worker: Callable[..., Awaitable[Worker]],
) -> None:
    await start_worker(settings_for(fake_engine, "chat", "echo"), [COLLECT])
    texts = [f"text number {number}" for number in range(TOGETHER)]
    collected = [put(valkey, "collect", {"text": text}) for text in texts]
    messages = [{"role": "user", "content": "hello there"}]
    chat = put(valkey, "llm-chat", {"model": "llama3", "messages": messages})
    echo = put(valkey, "echo", {"text": "hi", "times": 2})

    await finished(valkey, "collect", collected, "completed")
    await finished(valkey, "llm-chat", [chat], "completed")
    await finished(valkey, "echo", [echo], "completed")

    (call,) = embed_calls(fake_engine)
    assert call.inputs == TOGETHER
    for text, job_id in zip(texts, collected, strict=True):
        envelope = envelope_of(valkey, "collect", job_id)
        assert envelope["type"] == "collect"
        assert envelope["answer"]["text"] == text
        expected = embedding(text, 768)
        assert envelope["answer"]["vector"] == pytest.approx(expected)
    chat_answer = envelope_of(valkey, "llm-chat", chat)["answer"]
    assert chat_answer["message"]["content"] == "hello there"
    assert envelope_of(valkey, "echo", echo)["answer"] == "hi hi"


async def test_a_call_that_fails_fails_every_job_that_it_was_made_for(
    valkey: ValkeyFixture,
    fake_engine: FakeEngine,
    start_worker: Callable[..., Awaitable[Worker]],
) -> None:
    fault = ScriptedFault(
        action=FaultAction.STATUS,
        status=400,
        error="the input length exceeds the context length",
        path="/api/embed",
        contains="text",
    )
    fake_engine.script(fault)
    await start_worker(settings_for(fake_engine), [COLLECT])
    ids = [put(valkey, "collect", {"text": f"text {n}"}, attempts=3) for n in range(TOGETHER)]
    await finished(valkey, "collect", ids, "failed")
    reasons = {valkey.client.hget(f"bull:collect:{one}", "failedReason") for one in ids}
    assert len(reasons) == 1
    assert b"longer than the context" in reasons.pop()


async def test_jobs_that_wait_for_others_are_returned_at_the_stop(
    valkey: ValkeyFixture, fake_engine: FakeEngine
) -> None:
    settings = settings_for(fake_engine) | {"redis": {"url": valkey.url}}
    settings["worker"]["grace"] = "100ms"
    ids = [put(valkey, "collect", {"text": "alone"}) for _ in range(TOGETHER - 1)]
    worker = build_worker(settings, [COLLECT])
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            await tasks.start(run_worker, worker)
            await eventually_async(lambda: valkey.client.llen("bull:collect:active") == len(ids))
            worker.request_stop("the test says so")
    assert valkey.client.llen("bull:collect:wait") == len(ids)
    assert valkey.client.hget(f"bull:collect:{ids[0]}", "atm") in {None, b"0"}
    assert embed_calls(fake_engine) == []


async def test_a_job_types_own_task_that_crashes_stops_the_worker_in_its_phases(
    valkey: ValkeyFixture, fake_engine: FakeEngine
) -> None:
    settings = settings_for(fake_engine) | {"redis": {"url": valkey.url}}
    settings["worker"]["grace"] = "200ms"
    ids = [put(valkey, "collect", {"text": f"text {n}"}) for n in range(TOGETHER)]
    worker = build_worker(settings, [plugin_under_test("collect", CrashingPlugin)])
    bug = pytest.RaisesExc(RuntimeError, match="collecting task")
    with pytest.RaisesGroup(bug, flatten_subgroups=True), anyio.fail_after(10):
        await worker.run()
    # Nothing is lost: every job is back in its queue, and no attempt is spent.
    assert valkey.client.llen("bull:collect:wait") == len(ids)
    assert valkey.client.llen("bull:collect:active") == 0

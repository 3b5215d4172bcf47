"""Runs within a run: a job whose type lets others answer for it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest

from tests.integration.support import PROBE, Ledger, fields_of, probe, put, state_of
from worker_core import (
    DelayJob,
    InvalidRequest,
    JobContext,
    JobType,
    QueueSpec,
    Unrecoverable,
    hookimpl,
)
from worker_core.errors import DeadlineExceeded
from worker_core.signals import GiveBack
from worker_core.testing.polling import eventually_async
from worker_core.testing.workers import plugin_under_test

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker_core._runtime.plugins import PluginClass

OUTER = "outer"


@attrs.frozen
class Nothing:
    """Any data."""


def outer(
    run: Callable[[JobContext], Awaitable[object]], *others: type[JobType[Any]]
) -> PluginClass:
    """A plugin whose job type `outer` does this, and other types beside it."""

    class Outer(JobType[Nothing]):
        name = OUTER
        request = Nothing
        needs_engine = False

        @property
        def queues(self) -> list[QueueSpec]:
            return [QueueSpec(OUTER, 2)]

        async def run(self, request: Nothing, context: JobContext) -> object:
            return await run(context)

    class OuterPlugin:
        @hookimpl
        def worker_core_job_types(self) -> list[JobType[Any]]:
            return [Outer(), *(kind() for kind in others)]

    return plugin_under_test(OUTER, OuterPlugin)


def inner(
    behave: Callable[[JobContext], Awaitable[object]], *, timeout: timedelta | None = None
) -> type[JobType[Any]]:
    """A job type `inner`, whose queue stays empty."""
    limit = timeout

    class Inner(JobType[Nothing]):
        name = "inner"
        request = Nothing
        needs_engine = False
        timeout = limit

        @property
        def queues(self) -> list[QueueSpec]:
            return [QueueSpec("inner")]

        async def run(self, request: Nothing, context: JobContext) -> object:
            return await behave(context)

    return Inner


async def ended(client: Any, job_id: str, state: str = "completed") -> dict[str, str]:
    await eventually_async(lambda: state_of(client, job_id, OUTER) == state)
    return fields_of(client, job_id, OUTER)


async def test_the_inner_run_answers_as_a_job_of_its_own_would(valkey, fake_engine, start_worker):
    fake_engine.behaviour = type(fake_engine.behaviour)(loaded=("llama3",))
    data = {"model": "llama3", "messages": [{"role": "user", "content": "hi"}], "stray": 1}

    async def run(context: JobContext) -> object:
        result = await context.run("chat", data)
        return [json.loads(result.envelope), result.prompt_tokens, result.completion_tokens]

    await start_worker(
        {
            "worker": {"plugins": ["chat"], "id": "w"},
            "plugins": {"ollama": {"base_url": fake_engine.url}},
        },
        [outer(run)],
    )
    job = await ended(valkey.client, put(valkey.client, OUTER, {}))
    envelope, prompt_tokens, completion_tokens = json.loads(job["returnvalue"])["answer"]
    assert envelope["type"] == "chat"
    assert envelope["answer"]["message"]["role"] == "assistant"
    assert envelope["model"] == {"asked": "llama3", "used": "llama3"}
    assert envelope["usage"]["prompt_tokens"] == prompt_tokens > 0
    assert envelope["usage"]["completion_tokens"] == completion_tokens > 0
    assert envelope["warnings"] == ["unknown member 'stray' was ignored"]
    assert (envelope["worker"], envelope["attempt"]) == ("w", 1)
    # Its progress and its tokens are not passed off as the outer job's.
    assert "progress" not in job
    assert not valkey.client.exists(f"bull:{OUTER}:1:tokens")


async def test_the_types_that_may_run_within_it(valkey, start_worker):
    async def run(context: JobContext) -> object:
        types = context.types
        types.check(PROBE, {"seconds": 1})
        refused = []
        for name, data in ((PROBE, {"seconds": "x"}), ("nobody", {}), (OUTER, {})):
            with pytest.raises(InvalidRequest) as caught:
                types.check(name, data)
            refused.append(str(caught.value))
            with pytest.raises(InvalidRequest):
                await context.run(name, data)
        return [types.names, types.slots(PROBE), refused]

    await start_worker(
        {"worker": {"engine": "none", "concurrency": 3}},
        [outer(run), probe(queues=("a", "b"))],
    )
    job = await ended(valkey.client, put(valkey.client, OUTER, {}))
    names, slots, refused = json.loads(job["returnvalue"])["answer"]
    assert (names, slots) == ([PROBE], 6)
    assert "seconds: " in refused[0]
    assert "no job type 'nobody' may run in this job; there are: probe" in refused[1]
    assert "no job type 'outer'" in refused[2]


async def test_a_type_never_runs_within_itself(valkey, start_worker):
    async def within(context: JobContext) -> object:
        return list(context.types.names)

    async def run(context: JobContext) -> object:
        return json.loads((await context.run("inner", {})).envelope)["answer"]

    await start_worker({"worker": {"engine": "none"}}, [outer(run, inner(within)), probe()])
    job = await ended(valkey.client, put(valkey.client, OUTER, {}))
    assert json.loads(job["returnvalue"])["answer"] == [PROBE]


async def test_each_inner_run_has_its_own_clock(valkey, start_worker):
    async def hang(context: JobContext) -> object:
        left = context.time_left
        assert left is not None
        assert left <= timedelta(milliseconds=100)
        await anyio.sleep_forever()
        return None

    async def run(context: JobContext) -> object:
        assert context.time_left is None
        with pytest.raises(DeadlineExceeded, match=r"the inner run did not end within 0.1 s"):
            await context.run("inner", {})
        return "went on"

    limited = inner(hang, timeout=timedelta(milliseconds=100))
    await start_worker({"worker": {"engine": "none"}}, [outer(run, limited)])
    job = await ended(valkey.client, put(valkey.client, OUTER, {}))
    assert json.loads(job["returnvalue"])["answer"] == "went on"


async def test_an_inner_run_cannot_put_the_job_off_and_its_errors_are_its_own(valkey, start_worker):
    raised: list[Exception] = [
        DelayJob(timedelta(seconds=1)),
        KeyError("inner"),
    ]

    async def fail(context: JobContext) -> object:
        async with anyio.create_task_group():
            raise raised.pop(0)

    async def run(context: JobContext) -> object:
        with pytest.raises(Unrecoverable, match="cannot be put off: delayed by"):
            await context.run("inner", {})
        with pytest.raises(KeyError, match="inner"):
            await context.run("inner", {})
        return "went on"

    await start_worker({"worker": {"engine": "none"}}, [outer(run, inner(fail))])
    await ended(valkey.client, put(valkey.client, OUTER, {}))


async def test_inner_runs_end_with_the_job(valkey, start_worker):
    ledger = Ledger()
    running = anyio.Event()

    async def run(context: JobContext) -> object:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(context.run, PROBE, {"do": "hang"})
            await eventually_async(lambda: len(ledger.began) == 3)
            running.set()
        return None

    worker = await start_worker(
        {"worker": {"engine": "none", "grace": "100ms"}}, [outer(run), probe(ledger)]
    )
    job_id = put(valkey.client, OUTER, {})
    await running.wait()
    worker.request_stop("the test asks for it")
    await eventually_async(lambda: state_of(valkey.client, job_id, OUTER) == "wait")
    assert len(ledger.cancelled) == 3
    samples = {
        sample.labels["status"]: sample.value
        for family in worker.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "llm_worker_inner_runs_total"
    }
    assert samples == {"cancelled": 3}


async def test_a_long_job_gives_itself_back_when_the_worker_stops(valkey, start_worker):
    begun = anyio.Event()

    async def run(context: JobContext) -> object:
        begun.set()
        await eventually_async(lambda: context.is_draining, within=60)
        raise GiveBack

    worker = await start_worker({"worker": {"engine": "none", "grace": "60s"}}, [outer(run)])
    job_id = put(valkey.client, OUTER, {})
    await begun.wait()
    worker.request_stop("the test asks for it")
    with anyio.fail_after(10):  # far less than the grace
        await eventually_async(lambda: state_of(valkey.client, job_id, OUTER) == "wait")
    job = fields_of(valkey.client, job_id, OUTER)
    assert "atm" not in job
    assert "failedReason" not in job


async def test_a_job_that_gives_itself_back_for_nothing_keeps_no_worker_busy(valkey, start_worker):
    runs = 0

    async def run(context: JobContext) -> object:
        nonlocal runs
        runs += 1
        raise GiveBack

    await start_worker({"worker": {"engine": "none"}}, [outer(run)])
    job_id = put(valkey.client, OUTER, {})
    await eventually_async(lambda: state_of(valkey.client, job_id, OUTER) == "delayed")
    await eventually_async(lambda: runs == 2)
    assert "atm" not in fields_of(valkey.client, job_id, OUTER)

"""Circuits in a running worker: one model fails, the engine is gone, and both come back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import anyio
import attrs
from pytest_trio import trio_fixture
from structlog.testing import capture_logs

from tests.integration.support import CHAT, chat, fields_of, put, state_of
from worker_core import CircuitChange, CircuitState, JobEvent, JobStep, Outcome, hookimpl
from worker_core._bullmq.job import Backoff
from worker_core.testing.fake_engine import (
    Behaviour,
    FakeEngine,
    FaultAction,
    FaultMoment,
    LoggedRequest,
    ScriptedFault,
    open_fake_engine,
)
from worker_core.testing.polling import eventually_async
from worker_core.testing.workers import plugin_under_test

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from worker_core._runtime.plugins import PluginClass
    from worker_core._runtime.worker import Worker

QUICK = {"consecutive": 3, "open_for": "300ms", "max_open": "600ms"}
HOST = "127.0.0.1:1"
MANY = 2000


def settings(url: str, *, circuit: dict[str, object] | None = None, **worker: object) -> Any:
    ollama = {"base_url": url, "max_retries": 0, "circuit": circuit or QUICK}
    return {"worker": {"plugins": ["chat"], **worker}, "plugins": {"ollama": ollama}}


@attrs.define
class Events:
    """What observers were told."""

    changes: list[CircuitChange] = attrs.field(factory=list)
    ended: list[JobEvent] = attrs.field(factory=list)


def watching(events: Events) -> PluginClass:
    class Watching:
        @hookimpl
        def worker_core_job_event(self, event: JobEvent) -> None:
            if event.step is JobStep.CIRCUIT_CHANGED:
                assert event.circuit is not None
                events.changes.append(event.circuit)
            if event.step is JobStep.ENDED:
                events.ended.append(event)

    return plugin_under_test("watching", Watching)


def ask(model: str) -> dict[str, object]:
    return {**chat("one two"), "model": model}


def standing(worker: Worker, circuit: str) -> dict[str, float]:
    """What the metric has of a circuit, by state."""
    label = re.escape(circuit)
    found = re.findall(
        rf'^llm_worker_circuit_breaker_state{{circuit="{label}",.*state="(\w+)".*}} (\S+)$',
        worker.metrics.text().decode(),
        re.MULTILINE,
    )
    return {state: float(value) for state, value in found}


def struck(engine: FakeEngine) -> list[LoggedRequest]:
    """What the engine was asked for in vain."""
    return [one for one in engine.log.requests if one.fault]


async def all_completed(client: redis.Redis, jobs: list[str], *, within: float = 30.0) -> None:
    await eventually_async(
        lambda: client.zcard(f"bull:{CHAT}:completed") == len(jobs),
        within=within,
        what=f"all {len(jobs)} jobs are completed",
    )


@trio_fixture
async def loaded_engine() -> AsyncIterator[FakeEngine]:
    """An engine with its models in memory: what fails is a call, never a load."""
    async with open_fake_engine(Behaviour(loaded=("llama3", "qwen3"))) as engine:
        yield engine


async def test_one_model_fails_for_a_while(valkey, loaded_engine, start_worker):
    client, fake_engine = valkey.client, loaded_engine
    fault = ScriptedFault(action=FaultAction.STATUS, path="/api/chat", model="llama3", count=None)
    fake_engine.script(fault)
    events = Events()
    with capture_logs() as logs:
        worker = await start_worker(settings(fake_engine.url), [watching(events)])
        options = {"attempts": 20, "backoff": Backoff("fixed", 50)}
        failing = [put(client, CHAT, ask("llama3"), **options) for _ in range(12)]
        await eventually_async(lambda: standing(worker, "chat:llama3").get("open") == 1)
        assert standing(worker, "chat:llama3") == {"closed": 0, "open": 1, "half_open": 0}
        # Other models go on, behind the jobs of the one that fails.
        others = [put(client, CHAT, ask("qwen3")) for _ in range(5)]
        await eventually_async(
            lambda: all(state_of(client, job_id, CHAT) == "completed" for job_id in others)
        )
        assert standing(worker, "host")["closed"] == 1
        # It is asked again in vain, at least once.
        opened = [one for one in logs if one["event"].startswith("a circuit opened")]
        await eventually_async(
            lambda: len([c for c in events.changes if c.state is CircuitState.OPEN]) >= 2
        )
        assert not any(state_of(client, job_id, CHAT) == "completed" for job_id in failing)
        fake_engine.faults.clear()
        await all_completed(client, [*failing, *others])
        await eventually_async(lambda: standing(worker, "chat:llama3").get("closed") == 1)
    assert opened[0]["log_level"] == "warning"
    assert opened[0]["circuit"] == "chat:llama3"
    assert "crashed" in opened[0]["last_failure"]
    said = [one["event"] for one in logs if one.get("circuit") == "chat:llama3"]
    assert said[-1] == "a circuit closed"
    assert any("half open" in event for event in said)
    host = fake_engine.url.removeprefix("http://")
    assert events.changes[0] == CircuitChange(host, "chat:llama3", CircuitState.OPEN)
    assert events.changes[-1] == CircuitChange(host, "chat:llama3", CircuitState.CLOSED)
    # Whoever asked the engine and was failed by it has spent an attempt, and nobody else.
    asked = struck(fake_engine)
    fields = [fields_of(client, job_id, CHAT) for job_id in failing]
    assert sum(int(one["atm"]) - 1 for one in fields) == len(asked)
    put_back = [one for one in events.ended if one.outcome is Outcome.DELAYED]
    assert sum(int(one["ats"]) - int(one["atm"]) for one in fields) == len(put_back) > 0
    assert {one.reason.partition(":")[0] for one in put_back} == {"circuit_open"}


async def test_a_model_that_does_not_load_costs_no_more_than_the_first_attempts(
    valkey, fake_engine, start_worker
):
    client = valkey.client
    fake_engine.script(
        ScriptedFault(
            action=FaultAction.STATUS, model="llama3", count=None, moment=FaultMoment.LOAD
        )
    )
    worker = await start_worker(settings(fake_engine.url))
    jobs = [put(client, CHAT, chat("hi"), attempts=4) for _ in range(12)]
    await eventually_async(lambda: standing(worker, "chat:llama3").get("open") == 1)
    await eventually_async(lambda: client.zcard(f"bull:{CHAT}:delayed") >= 4)
    spent = sum(int(fields_of(client, job_id, CHAT).get("atm", 0)) for job_id in jobs)
    await eventually_async(lambda: len(struck(fake_engine)) > 5)
    fake_engine.faults.clear()
    await all_completed(client, jobs)
    # One more for each: the one that completed it.
    assert sum(int(fields_of(client, job_id, CHAT)["atm"]) for job_id in jobs) == spent + len(jobs)


async def test_many_jobs_wait_for_an_engine_that_is_gone(valkey, start_worker, free_tcp_port):
    client = valkey.client
    url = f"http://127.0.0.1:{free_tcp_port}"
    slow = {"consecutive": 3, "open_for": "1s", "max_open": "2s"}
    jobs = [put(client, CHAT, chat("hi")) for _ in range(MANY)]
    worker = await start_worker(settings(url, circuit=slow, concurrency=10))
    await eventually_async(lambda: standing(worker, "host").get("open") == 1)
    await eventually_async(lambda: client.zcard(f"bull:{CHAT}:delayed") >= 3)
    began, before = anyio.current_time(), claims(client)
    await eventually_async(lambda: anyio.current_time() - began > 4, within=10)
    # All slots at once when it is half open, and no more: it was so three times at most.
    assert claims(client) - before <= 4 * (10 + 2)
    assert client.zcard(f"bull:{CHAT}:failed") == 0
    async with open_fake_engine(port=free_tcp_port):
        await all_completed(client, jobs, within=60)
        # With one attempt each, and none was spent on the outage.
        assert client.zcard(f"bull:{CHAT}:failed") == 0
        assert {fields_of(client, job_id, CHAT)["atm"] for job_id in jobs} == {"1"}


def claims(client: redis.Redis) -> int:
    """How many runs of jobs have begun: each claim counts `ats` up by a call of its own."""
    return client.info("commandstats").get("cmdstat_hincrby", {}).get("calls", 0)


async def test_a_job_waits_for_a_circuit_no_longer_than_it_may(valkey, start_worker, free_tcp_port):
    client = valkey.client
    events = Events()
    tables = settings(f"http://127.0.0.1:{free_tcp_port}", max_circuit_wait="1s")
    job_id = put(client, CHAT, chat("hi"))
    await start_worker(tables, [watching(events)])
    await eventually_async(lambda: state_of(client, job_id, CHAT) == "failed")
    fields = fields_of(client, job_id, CHAT)
    assert fields["failedReason"].startswith("circuit_open: circuit 'host' of 127.0.0.1:")
    assert "unreachable" in fields["failedReason"]
    assert fields["atm"] == "1"
    outcomes = [event.outcome for event in events.ended]
    assert outcomes[0] is Outcome.DELAYED
    assert outcomes[-1] is Outcome.FAILED


async def test_without_circuits_a_job_fails_as_its_attempts_say(valkey, fake_engine, start_worker):
    fake_engine.script(ScriptedFault(action=FaultAction.STATUS, path="/api/chat", count=None))
    worker = await start_worker(settings(fake_engine.url, circuits=False))
    jobs = [put(valkey.client, CHAT, chat("hi")) for _ in range(10)]
    await eventually_async(lambda: valkey.client.zcard(f"bull:{CHAT}:failed") == len(jobs))
    assert b"circuit_breaker_state{" not in worker.metrics.text()

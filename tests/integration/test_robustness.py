"""What a worker bears: odd jobs, plugins that crash or hang, an engine that is away for a while."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from typing import Any, Self

import anyio
import attrs
import pytest

from tests.integration.support import (
    PROBE,
    Ledger,
    ProbeJobType,
    chat,
    fields_of,
    probe,
    put,
    running,
    state_of,
)
from worker_core import Engine, Host, JobContext, JobType, QueueSpec, hookimpl
from worker_core._runtime import worker as worker_module
from worker_core.errors import PluginError
from worker_core.testing.fake_engine import open_fake_engine
from worker_core.testing.polling import eventually, eventually_async
from worker_core.testing.workers import build_worker, plugin_under_test, run_worker


async def test_a_job_delayed_for_ages_stops_nobody(valkey):
    # A producer that gives nanoseconds means two seconds and says fifty years.
    far = {b"name": b"x", b"data": b"{}", b"opts": b"{}", b"timestamp": b"1", b"priority": b"0"}
    valkey.client.hset("bull:probe:far", mapping=far)
    valkey.client.zadd("bull:probe:delayed", {"far": 1.7e18 * 4096})
    valkey.client.zadd("bull:probe:marker", {"1": 1.7e18})
    async with running(valkey.url, probe()) as one:
        near = put(valkey.client, PROBE, {"text": "hi"})
        await eventually_async(lambda: state_of(valkey.client, near) == "completed")
        assert not one.ended.is_set()
    assert state_of(valkey.client, "far") == "delayed"


async def test_asking_twice_does_not_hurry(valkey):
    ledger = Ledger()
    async with running(valkey.url, probe(ledger)) as one:
        job = put(valkey.client, PROBE, {"seconds": 0.5})
        await eventually_async(lambda: ledger.began)
        one.worker.request_stop("a monitor")
        one.worker.request_stop("the same monitor")
        with anyio.fail_after(10):
            await one.ended.wait()
    assert state_of(valkey.client, job) == "completed"


async def test_a_drained_job_whose_cleanup_raises_goes_back(valkey):
    class Careless(JobType[Any]):
        name = "careless"
        queues = (QueueSpec("careless"),)
        request = Nothing
        needs_engine = False

        async def run(self, request: Any, context: JobContext) -> None:
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("the connection was closed already")

    began = anyio.Event()
    async with running(valkey.url, plugin_of(Careless()), {"worker": {"grace": "100ms"}}) as one:
        job = put(valkey.client, "careless", {})
        with anyio.fail_after(10):
            await began.wait()
        await one.stop(within=10)
    assert state_of(valkey.client, job, "careless") == "wait"
    assert "failedReason" not in fields_of(valkey.client, job, "careless")


async def test_a_crash_in_a_job_types_own_task_leaves_no_job_unowned(valkey):
    class Crashing(JobType[Any]):
        name = "crashing"
        queues = (QueueSpec("crashing", concurrency=8),)
        request = Nothing
        needs_engine = False

        async def __aenter__(self) -> Self:
            self._tasks = anyio.create_task_group()
            await self._tasks.__aenter__()
            self._tasks.start_soon(self._crash)
            return self

        async def __aexit__(self, *error: Any) -> None:
            await self._tasks.__aexit__(*error)

        async def _crash(self) -> None:
            await crash.wait()
            raise ZeroDivisionError("a bug")

        async def run(self, request: Any, context: JobContext) -> None:
            return None

    crash = anyio.Event()
    worker = build_worker(
        {"redis": {"url": valkey.url}, "worker": {"engine": "none"}}, [plugin_of(Crashing())]
    )
    with pytest.raises(BaseExceptionGroup):
        async with anyio.create_task_group() as tasks:
            await tasks.start(run_worker, worker)
            crash.set()
            for _ in range(200):
                put(valkey.client, "crashing", {})
    assert valkey.client.llen("bull:crashing:active") == 0


@attrs.frozen
class Nothing:
    """A request without members."""


def plugin_of(job_type: JobType[Any]) -> Any:
    class Plugin:
        @hookimpl
        def worker_core_job_types(self) -> list[JobType[Any]]:
            return [job_type]

    return plugin_under_test(job_type.name, Plugin)


class SlowEngine(Engine):
    """An engine that is never ready."""

    name = "slow"
    hosts: tuple[Host, ...] = ()

    async def __aenter__(self) -> Self:
        await anyio.sleep_forever()
        raise AssertionError


def slow_worker(url: str) -> Any:
    class Plugin:
        @hookimpl
        def worker_core_engines(self) -> list[Engine]:
            return [SlowEngine()]

        @hookimpl
        def worker_core_job_types(self) -> list[JobType[Any]]:
            return []

    plugin = plugin_under_test("slow", Plugin)
    worker = build_worker({"redis": {"url": url}, "worker": {"engine": "none"}}, [plugin])
    worker._composition = attrs.evolve(worker._composition, engine=SlowEngine())
    return worker


async def test_a_stop_is_heard_while_an_engine_starts(valkey):
    worker = slow_worker(valkey.url)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await anyio.sleep(0)
            worker.request_stop("SIGTERM")


async def test_an_engine_that_is_never_ready_ends_the_start(valkey, monkeypatch):
    monkeypatch.setattr(worker_module, "_START_SECONDS", 0.2)
    with anyio.fail_after(10), pytest.raises(BaseExceptionGroup) as caught:
        await slow_worker(valkey.url).run()
    assert caught.group_contains(PluginError, match="did not start")


async def test_readiness_says_that_no_job_can_be_claimed(valkey):
    async with running(valkey.url, probe()) as one:

        async def queue_reason() -> str | None:
            results = await one.worker.status.check_health(within=timedelta(seconds=1))
            return next(result.reason for result in results if result.name == "queue")

        assert await queue_reason() is None
        valkey.client.set("bull:probe:wait", "somebody wrote over it")
        valkey.client.zadd("bull:probe:marker", {"0": 0})

        async def refused() -> bool:
            return "WRONGTYPE" in (await queue_reason() or "")

        await eventually_async(refused)
        valkey.client.delete("bull:probe:wait")

        async def healthy() -> bool:
            return await queue_reason() is None

        await eventually_async(healthy)


async def test_an_engine_that_is_away_for_a_while_costs_no_attempt(
    valkey, start_worker, free_tcp_port
):
    settings = {
        "worker": {"plugins": ["chat"], "engine_patience": "20s"},
        "plugins": {"ollama": {"base_url": f"http://127.0.0.1:{free_tcp_port}"}},
    }
    await start_worker(settings)
    job = put(valkey.client, "llm-chat", chat("still there"))
    await eventually_async(lambda: fields_of(valkey.client, job, "llm-chat").get("progress"))
    async with open_fake_engine(port=free_tcp_port):
        await eventually_async(lambda: state_of(valkey.client, job, "llm-chat") == "completed")
    assert fields_of(valkey.client, job, "llm-chat")["ats"] == "1"


async def test_an_engine_that_stays_away_fails_the_attempt(valkey, start_worker, free_tcp_port):
    settings = {
        "worker": {"plugins": ["chat"], "engine_patience": "300ms"},
        "plugins": {"ollama": {"base_url": f"http://127.0.0.1:{free_tcp_port}"}},
    }
    await start_worker(settings)
    job = put(valkey.client, "llm-chat", chat("nobody there"))
    await eventually_async(lambda: state_of(valkey.client, job, "llm-chat") == "failed")
    assert "unreachable" in fields_of(valkey.client, job, "llm-chat")["failedReason"]


async def test_unknown_members_do_not_swell_a_result(valkey):
    async with running(valkey.url, probe()):
        job = put(valkey.client, PROBE, {f"extra{number}": 1 for number in range(500)})
        await eventually_async(lambda: state_of(valkey.client, job) == "completed")
    result = fields_of(valkey.client, job)["returnvalue"]
    assert "480 more unknown members" in result
    assert len(result) < 3000


def test_a_worker_with_nothing_to_run_is_refused(start_process):
    process = start_process("--engine", "none")
    assert process.wait() == 2
    assert "enable one" in eventually(lambda: process.log)


STUCK = """\
import sys

import anyio
import attrs

from worker_core import JobType, QueueSpec, Service, hookimpl
from worker_core._runtime import process
from worker_core.testing.workers import configuration_of, plugin_under_test

process.RETURN_SECONDS, process._LAST_RESORT_SECONDS = 0.1, 0.3


@attrs.frozen
class Nothing:
    pass


class Deaf(JobType[Nothing]):
    name, request, needs_engine = "deaf", Nothing, False
    queues = (QueueSpec("deaf"),)

    async def run(self, request, context):
        began.set()
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()


class Monitor(Service):
    name = "monitor"

    async def run(self, context, *, task_status):
        task_status.started()
        await began.wait()
        context.request_stop("the disk is full")
        await anyio.sleep_forever()


class Plugin:
    @hookimpl
    def worker_core_job_types(self):
        return [Deaf()]

    @hookimpl
    def worker_core_services(self):
        return [Monitor()]


began = anyio.Event()
settings = {"redis": {"url": sys.argv[1]}, "worker": {"engine": "none", "grace": "100ms"}}
sys.exit(process.run_process(configuration_of(settings, [plugin_under_test("stuck", Plugin)])))
"""


def test_a_stop_that_no_signal_asked_for_is_ended_by_force_too(valkey):
    put(valkey.client, "deaf", {})
    command = [sys.executable, "-c", STUCK, valkey.url]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 70, ended.stderr
    assert "the stop hangs in a plugin" in ended.stderr


class ExitingJobType(ProbeJobType):
    """Ends the interpreter in the middle of a job, as a library's `sys.exit` would."""

    async def run(self, request, context):
        if request.do == "exit":
            raise SystemExit(3)
        return await super().run(request, context)


async def test_the_lock_of_a_job_that_ends_the_interpreter_is_not_kept_by_those_that_still_run(
    valkey,
):
    class ExitingPlugin:
        @hookimpl
        def worker_core_job_types(self):
            return [ExitingJobType(Ledger(), (PROBE,))]

    plugin = plugin_under_test(PROBE, ExitingPlugin)
    short_locks = {"lock_duration": "800ms", "lock_renew_time": "400ms"}
    settings = {"worker": {"concurrency": 2, "grace": "10s"}, "queue": short_locks}
    seen: list[str | None] = []
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(valkey.url, plugin, settings):
            other = put(valkey.client, PROBE, {"seconds": 4})
            await eventually_async(lambda: len(active(valkey.client)) == 1)
            exiting = put(valkey.client, PROBE, {"do": "exit"})
            with anyio.CancelScope(shield=True):
                await eventually_async(lambda: len(active(valkey.client)) == 2)
                lock = f"bull:{PROBE}:{exiting}:lock"
                await eventually_async(lambda: not valkey.client.exists(lock))
                seen.append(state_of(valkey.client, other))
    assert caught.value.split(SystemExit)[0] is not None
    assert seen == ["active"]


def active(client):
    return client.lrange(f"bull:{PROBE}:active", 0, -1)


async def test_a_worker_without_a_free_slot_leaves_delayed_jobs_to_another(valkey):
    """Its block was still outstanding when its own timer gave it a job."""
    busy, free = ({"worker": {"concurrency": 1, "id": name}} for name in ("busy", "free"))
    async with running(valkey.url, probe(), busy):
        await eventually_async(lambda: blocked(valkey.client) == 1)
        async with running(valkey.url, probe(), free):
            await eventually_async(lambda: blocked(valkey.client) == 2)
            # The one that has blocked for longer hears of it, and sets its timer.
            long = put(valkey.client, PROBE, {"seconds": 5}, delay=timedelta(milliseconds=300))
            await eventually_async(lambda: len(active(valkey.client)) == 1)
            await eventually_async(lambda: blocked(valkey.client) == 2)
            late = put(valkey.client, PROBE, {}, delay=timedelta(milliseconds=300))
            await eventually_async(lambda: state_of(valkey.client, late) == "completed")
            ran = {job: fields_of(valkey.client, job) for job in (long, late)}
    assert [ran[job]["pb"] for job in (long, late)] == ["busy", "free"]
    assert int(ran[late]["processedOn"]) - int(ran[late]["timestamp"]) < 300 + 700


def blocked(client):
    return client.info("clients")["blocked_clients"]

"""Probes of a real worker: real Valkey, real HTTP, an engine that goes away and comes back."""

from __future__ import annotations

import signal
import socket
import time
from datetime import timedelta

import anyio
import attrs
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker_core import Service, hookimpl
from worker_core.client import SyncClient, open_client
from worker_core.health import WorkerPhase
from worker_core.testing.polling import eventually, eventually_async
from worker_core.testing.proxy import open_chaos_proxy
from worker_core.testing.workers import plugin_under_test

CHAT = {"model": "llama3", "messages": [{"role": "user", "content": "hi"}]}
SERVICES = {"redis": "healthy", "ollama": "healthy", "queue": "healthy"}


@pytest.fixture
async def engine_proxy(fake_engine):
    """What stands between worker and engine, to take the engine away."""
    url = httpx.URL(fake_engine.url)
    async with open_chaos_proxy(url.host, url.port) as proxy:
        yield proxy


@pytest.fixture
async def worker(start_worker, engine_proxy, free_tcp_port):
    """A worker with chat and health."""
    return await start_worker(
        {
            "worker": {"plugins": ["chat", "health"], "id": "w1"},
            "plugins": {
                "ollama": {"base_url": f"http://{engine_proxy.host}:{engine_proxy.port}"},
                "health": {"port": free_tcp_port},
            },
        }
    )


@pytest.fixture
async def probe(worker, free_tcp_port):
    """Asks the worker for a path."""
    url = f"http://127.0.0.1:{free_tcp_port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client.get


async def test_every_path_of_a_worker_that_runs(probe, fake_engine):
    ready = await probe("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["services"] == SERVICES
    assert (await probe("/health")).json()["workerId"] == "w1"
    assert (await probe("/health/live")).json()["status"] == "alive"
    assert fake_engine.loaded == ()


async def test_readiness_follows_the_engine(probe, engine_proxy):
    async def is_ready():
        return (await probe("/health/ready")).status_code == 200

    async def is_not_ready():
        return not await is_ready()

    assert await is_ready()
    engine_proxy.refusing = True
    engine_proxy.cut(reset=True)
    await eventually_async(is_not_ready)
    body = (await probe("/health/ready")).json()
    assert body["status"] == "not_ready"
    assert body["services"] == {**SERVICES, "ollama": "unhealthy"}
    assert list(body["reasons"]) == ["ollama"]
    assert (await probe("/health/live")).status_code == 200
    engine_proxy.refusing = False
    await eventually_async(is_ready)


async def test_an_engine_that_hangs_is_answered_within_a_second(probe, engine_proxy):
    engine_proxy.blackhole()
    before = anyio.current_time()
    ready = await probe("/health/ready")
    assert anyio.current_time() - before < 1.0
    assert ready.status_code == 503
    assert "no answer within" in ready.json()["reasons"]["ollama"]
    before = anyio.current_time()
    assert (await probe("/metrics")).status_code == 200
    assert anyio.current_time() - before < 1.0
    engine_proxy.restore()


async def test_metrics_tell_of_jobs(probe, valkey):
    async def runs():
        text = (await probe("/metrics")).text
        return [
            sample
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "llm_worker_requests_total"
        ]

    assert await runs() == []
    async with open_client(valkey.url) as client:
        await client.submit("chat", CHAT)
    [sample] = await eventually_async(runs)
    assert sample.value == 1.0
    assert sample.labels == {"worker_id": "w1", "model": "llama3", "status": "success"}


async def test_a_worker_that_drains_is_not_ready_but_alive(probe, worker, fake_engine, valkey):
    fake_engine.behaviour = attrs.evolve(fake_engine.behaviour, prefill_seconds=1.0)
    async with open_client(valkey.url) as client:
        job = await client.submit("chat", CHAT)
        await eventually_async(lambda: fake_engine.log.count("/api/chat"))
        assert (await probe("/health/ready")).status_code == 200
        worker.request_stop("test")
        ready = await probe("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["services"] == {**SERVICES, "queue": "unhealthy"}
        assert "draining" in ready.json()["reasons"]["queue"]
        assert (await probe("/health/live")).status_code == 200
        # Before the engine goes with the test: the job would wait for that, as long as the grace.
        await client.result(job, timeout=timedelta(seconds=5))


class Blocker(Service):
    """A plugin that does what none may: it blocks the event loop."""

    name = "blocker"

    @hookimpl
    def worker_core_services(self):
        return [self]

    async def run(self, context, *, task_status):
        task_status.started()
        await eventually_async(lambda: context.status.phase is WorkerPhase.RUNNING)
        time.sleep(0.6)  # this is the fault
        await anyio.sleep_forever()


async def test_a_worker_whose_loop_hung_is_not_alive(start_worker, free_tcp_port):
    await start_worker(
        {
            "worker": {
                "plugins": ["echo", "health"],
                "engine": "none",
                "freeze_limit": "200ms",
            },
            "plugins": {"health": {"port": free_tcp_port}},
        },
        [plugin_under_test("blocker", Blocker)],
    )
    url = f"http://127.0.0.1:{free_tcp_port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:

        async def frozen():
            live = await client.get("/health/live")
            return live.status_code == 503 and live.json()

        body = await eventually_async(frozen)
    assert body["status"] == "frozen"
    assert "event loop" in body["reason"]


def get(port, path):
    return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False)


@pytest.fixture
def start_echo(start_process, tmp_path, free_tcp_port):
    """Start a worker process with echo and health on the free port."""
    file = tmp_path / "health.toml"
    file.write_text(
        '[worker]\nengine = "none"\nplugins = ["echo", "health"]\ngrace = "20s"\n'
        f"[plugins.health]\nport = {free_tcp_port}\n"
    )

    def start(**environment):
        return start_process("--config", str(file), environment=environment)

    return start


def test_a_process_with_health_starts_answers_and_drains(start_echo, free_tcp_port):
    worker = start_echo(METRICS_ENABLED="false")
    worker.wait_ready()
    ready = get(free_tcp_port, "/health/ready")
    assert (ready.status_code, ready.json()["services"]) == (
        200,
        {"redis": "healthy", "queue": "healthy"},
    )
    assert get(free_tcp_port, "/metrics").status_code == 404
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.log
    assert time.monotonic() - began < 5
    assert "Traceback" not in worker.log
    assert "Running on" not in worker.log


def test_a_taken_port_does_not_stop_the_worker(start_echo, free_tcp_port, valkey):
    with socket.create_server(("127.0.0.1", free_tcp_port)), SyncClient(valkey.url) as client:
        worker = start_echo()
        worker.wait_ready()
        assert f"port {free_tcp_port} is taken; set plugins.health.port" in worker.log
        job = client.submit("echo", {"text": "hi"}, queue="echo")
        eventually(lambda: valkey.client.zscore("bull:echo:completed", job.id))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.log


def test_probes_are_answered_before_redis_is_there(start_echo, free_tcp_port_factory):
    port = free_tcp_port_factory()
    worker = start_echo(REDIS_URL=f"redis://127.0.0.1:{port}")
    eventually(lambda: "listening" in worker.log)
    health_port = int(worker.log.partition("http://127.0.0.1:")[2].partition('"')[0])
    ready = get(health_port, "/health/ready")
    assert ready.status_code == 503
    reasons = ready.json()["reasons"]
    assert set(reasons) == {"redis", "queue"}
    assert "starting" in reasons["queue"]
    assert get(health_port, "/health/live").status_code == 200
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.log

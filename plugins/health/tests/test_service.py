"""The server's life: its port, its end, clients that do not behave."""

from __future__ import annotations

import logging
import socket
from datetime import timedelta

import anyio
import attrs
import httpx
import pytest
from structlog.testing import capture_logs
from worker_core_health import HealthService, HealthSettings

from worker_core.testing.polling import eventually_async


async def get(url, path="/health"):
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"{url}{path}")


async def test_a_taken_port_is_said_and_tried_again(worker):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        service = HealthService(HealthSettings(port=port), retry=timedelta(milliseconds=20))
        async with anyio.create_task_group() as tasks:
            with capture_logs() as logs:
                await tasks.start(service.run, worker)
            assert service.url is None
            assert logs[0]["log_level"] == "error"
            assert logs[0]["reason"] == f"port {port} is taken; set plugins.health.port"
            other.close()
            url = await eventually_async(lambda: service.url)
            assert (await get(url)).status_code == 200
            tasks.cancel_scope.cancel()


async def test_a_host_that_is_not_here_is_said_too(worker):
    service = HealthService(HealthSettings(host="192.0.2.1", port=0))
    async with anyio.create_task_group() as tasks:
        with capture_logs() as logs:
            await tasks.start(service.run, worker)
        assert "192.0.2.1:0: " in logs[0]["reason"]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0"])
async def test_it_is_reached_at_127_0_0_1(serve, host):
    service = await serve(host=host)
    port = service.url.rpartition(":")[2]
    assert (await get(f"http://127.0.0.1:{port}")).status_code == 200


async def test_its_port_is_free_after_the_end(worker):
    service = HealthService(HealthSettings(port=0))
    for _ in range(2):
        async with anyio.create_task_group() as tasks:
            await tasks.start(service.run, worker)
            port = int(service.url.rpartition(":")[2])
            assert (await get(service.url)).status_code == 200
            tasks.cancel_scope.cancel()
        service = HealthService(HealthSettings(port=port))


async def test_an_answer_under_way_is_finished_at_the_end(worker):
    service = HealthService(HealthSettings(port=0))
    finished = anyio.Event()
    worker.obstacle = anyio.sleep_forever
    async with anyio.create_task_group() as probing:

        async def probe():
            assert (await get(service.url, "/health/ready")).status_code == 503
            finished.set()

        async with anyio.create_task_group() as tasks:
            await tasks.start(service.run, worker)
            probing.start_soon(probe)
            await eventually_async(lambda: worker.asked)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(1):
            await finished.wait()


async def test_a_client_that_says_nothing_does_not_delay_the_end(worker):
    service = HealthService(HealthSettings(port=0))
    async with anyio.create_task_group() as tasks:
        await tasks.start(service.run, worker)
        url = httpx.URL(service.url)
        async with await anyio.connect_tcp(url.host, url.port) as silent:
            await silent.send(b"GET /health HTTP/1.1\r\nHos")
            assert (await get(service.url)).status_code == 200
            with anyio.fail_after(2):
                tasks.cancel_scope.cancel()
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await silent.receive()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux' own option")
async def test_a_client_that_reads_nothing_does_not_hold_the_worker(worker, monkeypatch):
    monkeypatch.setattr("worker_core_health.listening._UNREAD_MS", 500)
    worker.text = b"#" * 30_000_000
    service = HealthService(HealthSettings(port=0))
    async with anyio.create_task_group() as probing:
        async with anyio.create_task_group() as tasks:
            await tasks.start(service.run, worker)
            url = httpx.URL(service.url)
            deaf = await anyio.connect_tcp(url.host, url.port)
            await deaf.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await eventually_async(lambda: worker.asked)
            assert (await get(service.url)).status_code == 200
            with anyio.CancelScope(shield=True), anyio.fail_after(4):
                tasks.cancel_scope.cancel()
        await deaf.aclose()
        probing.cancel_scope.cancel()


async def test_requests_are_not_logged(client, caplog):
    with caplog.at_level(logging.DEBUG):
        await client.get("/health")
        await client.get("/nope")
    servers = [one for one in caplog.records if not one.name.startswith(("httpx", "httpcore"))]
    assert not [one for one in servers if "/health" in one.getMessage() or one.args]


async def test_an_abandoned_probe_leaves_the_server_as_it_was(client, worker):
    worker.obstacle = anyio.sleep_forever
    for _ in range(3):
        with anyio.move_on_after(0.05):
            await client.get("/health/ready")
    assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("settings", [{"port": 65_536}, {"port": -1}, {"host": ""}])
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        HealthSettings(**settings)


def test_the_service_never_spends_its_budget():
    policy = HealthService.restart
    assert policy.max_restarts > policy.window / (policy.max_backoff / 2) + 10
    assert attrs.fields(HealthSettings).port.default == 3008

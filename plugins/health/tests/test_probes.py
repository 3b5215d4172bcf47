"""What each path answers, on real HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker_core.health import CheckResult, WorkerPhase


def assert_is_now(timestamp):
    moment = datetime.fromisoformat(timestamp)
    assert moment.utcoffset() == timedelta()
    assert abs(datetime.now(UTC) - moment) < timedelta(seconds=10)


async def test_health_says_who_this_is(client):
    answer = await client.get("/health")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert_is_now(body.pop("timestamp"))
    assert body == {"status": "healthy", "uptime": 12.5, "workerId": "w1", "version": "1.2.3"}


async def test_live(client):
    answer = await client.get("/health/live")
    assert answer.status_code == 200
    body = answer.json()
    assert_is_now(body.pop("timestamp"))
    assert body == {"status": "alive", "uptime": 12.5, "workerId": "w1"}


async def test_a_frozen_worker_is_not_alive(client, worker):
    worker.frozen_reason = "the event loop hung for 7 s"
    answer = await client.get("/health/live")
    assert answer.status_code == 503
    body = answer.json()
    assert_is_now(body.pop("timestamp"))
    assert body == {
        "status": "frozen",
        "uptime": 12.5,
        "workerId": "w1",
        "reason": "the event loop hung for 7 s",
    }


async def test_ready(client):
    answer = await client.get("/health/ready")
    assert answer.status_code == 200
    body = answer.json()
    assert_is_now(body.pop("timestamp"))
    assert body == {
        "status": "ready",
        "workerId": "w1",
        "services": {"redis": "healthy", "ollama": "healthy", "queue": "healthy"},
    }


async def test_a_part_that_fails_is_named_with_its_reason(client, worker):
    worker.results[1] = CheckResult("ollama", "connection refused")
    answer = await client.get("/health/ready")
    assert answer.status_code == 503
    body = answer.json()
    assert body["status"] == "not_ready"
    assert body["services"] == {"redis": "healthy", "ollama": "unhealthy", "queue": "healthy"}
    assert body["reasons"] == {"ollama": "connection refused"}


@pytest.mark.parametrize("phase", [WorkerPhase.STARTING, WorkerPhase.DRAINING])
async def test_a_worker_that_takes_no_jobs_is_not_ready(client, worker, phase):
    assert (await client.get("/health/ready")).status_code == 200
    # The results are still fresh; the phase shows all the same.
    worker.phase = phase
    answer = await client.get("/health/ready")
    assert answer.status_code == 503
    body = answer.json()
    assert body["services"] == {"redis": "healthy", "ollama": "healthy", "queue": "unhealthy"}
    assert phase.value in body["reasons"]["queue"]


async def test_metrics_are_served_as_prometheus_reads_them(client):
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    [family] = text_string_to_metric_families(answer.text)
    assert (family.name, family.samples[0].value) == ("up", 1.0)


async def test_metrics_may_be_off(serve):
    service = await serve(metrics=False)
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        answer = await client.get("/metrics")
        assert answer.status_code == 404
        assert answer.json() == {"error": "Not Found"}


@pytest.mark.parametrize("path", ["/", "/health/", "/health/nope", "/favicon.ico", "/static/x"])
async def test_unknown_paths_are_answered_in_json(client, path):
    answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"error": "Not Found"}


async def test_other_methods_are_answered_in_json(client):
    answer = await client.post("/health", json={})
    assert answer.status_code == 405
    assert answer.json() == {"error": "Method Not Allowed"}
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/metrics"])
async def test_head_is_answered_without_a_body(client, path):
    answer = await client.head(path)
    assert answer.status_code == 200
    assert answer.content == b""
    # The connection is still good: no body was left on it.
    assert (await client.get("/health")).json()["status"] == "healthy"


async def test_a_failing_status_is_an_answer_too(client, worker):
    async def fail():
        raise RuntimeError("a bug")

    worker.obstacle = fail
    answer = await client.get("/health/ready")
    assert answer.status_code == 503
    assert "a bug" in answer.json()["reasons"]["worker"]
    assert (await client.get("/metrics")).status_code == 503
    assert (await client.get("/health")).status_code == 200


async def test_whatever_hangs_a_probe_is_answered_within_a_second(client, worker):
    worker.obstacle = anyio.sleep_forever
    before = anyio.current_time()
    async with anyio.create_task_group() as asking:
        answers = {}

        async def ask(path):
            answers[path] = await client.get(path)

        for path in ("/health", "/health/live", "/health/ready", "/metrics"):
            asking.start_soon(ask, path)
    assert anyio.current_time() - before < 1.0
    assert answers["/health/ready"].json()["reasons"] == {"worker": "no answer in time"}
    codes = {path: answer.status_code for path, answer in answers.items()}
    assert codes == {"/health": 200, "/health/live": 200, "/health/ready": 503, "/metrics": 503}


async def test_many_probes_ask_the_worker_once(client, worker):
    async with anyio.create_task_group() as probing:
        for _ in range(20):
            probing.start_soon(client.get, "/health/ready")
    assert worker.asked == 1

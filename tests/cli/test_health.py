"""`worker-core health check` against a real worker, and against whatever else may be there."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest
from click.testing import CliRunner

from worker_core.cli.health import command


def check(*arguments):
    return CliRunner().invoke(command, ["check", *arguments])


@pytest.fixture
def start_with_health(start_process, tmp_path, free_tcp_port):
    """Start a worker with health and some settings more; returns its URL."""

    def start(settings):
        file = tmp_path / "health.toml"
        file.write_text(f"{settings}\n[plugins.health]\nport = {free_tcp_port}\n")
        start_process("--config", str(file)).wait_ready()
        return f"http://127.0.0.1:{free_tcp_port}"

    return start


def test_a_worker_that_is_ready(start_with_health):
    url = start_with_health('[worker]\nid = "w1"\nengine = "none"\nplugins = ["echo", "health"]')
    ran = check("--url", url)
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.splitlines() == ["w1: ready", "  redis healthy", "  queue healthy"]
    assert check("--url", f"{url}/", "--ready").exit_code == 0
    alive = check("--url", url, "--live")
    assert (alive.exit_code, alive.stdout) == (0, "w1: alive\n")
    body = json.loads(check("--url", url, "--json").stdout)
    assert (body["status"], body["services"]["redis"]) == ("ready", "healthy")


def test_a_worker_whose_engine_is_away(start_with_health, free_tcp_port_factory):
    engine = f"http://127.0.0.1:{free_tcp_port_factory()}"
    url = start_with_health(
        f'[worker]\nplugins = ["chat", "health"]\n[plugins.ollama]\nbase_url = "{engine}"'
    )
    ran = check("--url", url)
    assert ran.exit_code == 1
    assert ": not ready\n" in ran.stdout
    assert "  ollama unhealthy: " in ran.stdout
    assert "  redis healthy\n" in ran.stdout
    as_json = check("--url", url, "--json")
    assert as_json.exit_code == 1
    assert list(json.loads(as_json.stdout)["reasons"]) == ["ollama"]
    assert check("--url", url, "--live").exit_code == 0


@contextmanager
def serving(code, body):
    """Something else on a port: answers everything alike, or, with no body, not at all."""
    ended = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if body is None:
                ended.wait(10)
                return
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        ended.set()
        server.shutdown()
        thread.join()


def test_a_frozen_worker():
    body = {"status": "frozen", "workerId": "w1", "reason": "the event loop hung for 7 s"}
    with serving(503, json.dumps(body).encode()) as url:
        ran = check("--url", url, "--live")
    assert ran.exit_code == 1
    assert ran.stdout == "w1: frozen\n  the event loop hung for 7 s\n"


@pytest.mark.parametrize(
    ("code", "body"), [(404, b"{}"), (200, b"<html>"), (200, b"{}"), (200, b"[1]"), (301, b"")]
)
def test_what_is_no_health_server_is_not_taken_for_one(code, body):
    with serving(code, body) as url:
        ran = check("--url", url)
    assert ran.exit_code == 1
    assert f"answered with {code}" in ran.stderr


def test_what_does_not_answer_is_given_up():
    with serving(200, None) as url:
        before = time.monotonic()
        ran = check("--url", url, "--timeout", "200ms")
        assert time.monotonic() - before < 2
    assert ran.exit_code == 1
    assert "did not answer within 200ms" in ran.stderr


def test_where_nothing_is_the_command_says_so(free_tcp_port):
    url = f"http://127.0.0.1:{free_tcp_port}"
    ran = check("--url", url)
    assert ran.exit_code == 1
    assert f"{url} could not be reached" in ran.stderr
    body = json.loads(check("--url", url, "--json").stdout)
    assert body["status"] == "unreachable"
    assert url in body["reason"]


@pytest.mark.parametrize(
    "arguments",
    [["--url", "localhost:3008"], ["--url", "http://[::"], ["--timeout", "0s"], ["--timeout", "x"]],
)
def test_what_cannot_be_meant_is_a_usage_error(arguments):
    assert check(*arguments).exit_code == 2


def test_a_proxy_for_elsewhere_is_not_used(monkeypatch, free_tcp_port):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_tcp_port}")
    with serving(200, b'{"status": "ready", "workerId": "w1"}') as url:
        assert check("--url", url).exit_code == 0

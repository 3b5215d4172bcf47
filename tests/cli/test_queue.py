"""`worker-core queue` against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
import redis
from click.testing import CliRunner

from worker_core._bullmq.adding import AddOptions, add
from worker_core._bullmq.keys import QueueKeys
from worker_core.cli.queue import command
from worker_core.embedded import EmbeddedValkey
from worker_core.testing.polling import eventually

STATES = (
    *("waiting", "active", "delayed", "prioritized", "completed", "failed", "paused"),
    "waiting-children",
)


def put(valkey, queue, *, prefix="bull", **options):
    call = add(QueueKeys(prefix, queue), "job", b"{}", AddOptions(**options))
    return valkey.client.eval(call.script.source, len(call.keys), *call.keys, *call.args).decode()


@pytest.fixture
def stats(valkey, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", valkey.url)

    def run(*arguments):
        return CliRunner().invoke(command, ["stats", *arguments])

    return run


@pytest.fixture
def queues_of(stats):
    def read(*arguments):
        ran = stats("--json", *arguments)
        assert ran.exit_code == 0, ran.output
        return {queue["name"]: queue for queue in json.loads(ran.stdout)["queues"]}

    return read


def counts(**some):
    return {**dict.fromkeys(STATES, 0), **some}


def test_jobs_are_counted_by_state(queues_of, valkey):
    for _ in range(3):
        put(valkey, "q")
    put(valkey, "q", priority=2)
    put(valkey, "q", delay=timedelta(minutes=1))
    valkey.client.zadd("bull:q:completed", {"8": 1, "9": 2})
    valkey.client.zadd("bull:q:failed", {"7": 1})
    valkey.client.zadd("bull:q:waiting-children", {"6": 1})
    valkey.client.lpush("bull:q:active", "5")
    assert queues_of()["q"]["counts"] == {
        **counts(waiting=3, prioritized=1, delayed=1, completed=2, failed=1, active=1),
        "waiting-children": 1,
    }


def test_every_queue_is_found_by_default(queues_of, valkey):
    for queue in ("b", "a", "llm-chat"):
        put(valkey, queue)
    put(valkey, "other", prefix="mine")
    # Keys that look like a queue's: of a deduplication, of a longer prefix.
    valkey.client.set("bull:a:de:meta", "1")
    valkey.client.set("bullet:x:meta", "1")
    assert list(queues_of()) == ["a", "b", "llm-chat"]
    assert list(queues_of("--prefix", "mine")) == ["other"]
    assert list(queues_of("--prefix", "b*l")) == []


def test_a_prefix_is_no_pattern(queues_of, valkey):
    put(valkey, "q", prefix="b[1]*")
    assert list(queues_of("--prefix", "b[1]*")) == ["q"]


def test_named_queues_come_in_their_order(queues_of, valkey):
    for queue in ("a", "b", "c"):
        put(valkey, queue)
    assert list(queues_of("c", "a")) == ["c", "a"]


def test_a_queue_that_is_not_there_is_said(stats):
    ran = stats("nope", "--json")
    assert ran.exit_code == 0
    assert "no queue 'nope'" in ran.stderr
    [queue] = json.loads(ran.stdout)["queues"]
    assert (queue["exists"], queue["counts"]) == (False, counts())


def test_a_paused_queue_is_marked(queues_of, stats, valkey):
    put(valkey, "q")
    valkey.client.hset("bull:q:meta", "paused", 1)
    valkey.client.rename("bull:q:wait", "bull:q:paused")
    queue = queues_of()["q"]
    assert queue["paused"] is True
    assert queue["counts"] == counts(paused=1)
    assert queue["oldest_waiting_ms"] is not None
    assert "q (paused)" in stats().stdout


def test_the_oldest_of_those_that_are_next_counts(queues_of, valkey):
    assert put(valkey, "q") == "1"
    put(valkey, "q")
    assert queues_of()["q"]["oldest_waiting_ms"] < 60_000
    added = int(valkey.client.hget("bull:q:1", "timestamp"))
    valkey.client.hset("bull:q:1", "timestamp", added - 3_600_000)
    assert 3_600_000 <= queues_of()["q"]["oldest_waiting_ms"] < 3_660_000


def test_nothing_waits_in_an_empty_queue(queues_of, valkey):
    valkey.client.hset("bull:q:meta", "opts.maxLenEvents", 10)
    assert queues_of()["q"]["oldest_waiting_ms"] is None


def test_workers_are_told_by_their_connections(queues_of, valkey):
    put(valkey, "q")
    put(valkey, "q2")
    keys = QueueKeys("bull", "q")
    names = (keys.client_name("w2"), keys.client_name("w1"), keys.client_name("").rstrip(":w"))
    clients = [redis.Redis.from_url(valkey.url, client_name=name) for name in names]
    for client in clients:
        client.ping()
    found = queues_of()
    assert found["q"]["workers"] == ["", "w1", "w2"]
    assert found["q2"]["workers"] == []
    for client in clients:
        client.close()


def test_a_server_that_hides_its_clients_is_no_obstacle(stats, valkey):
    put(valkey, "q")
    valkey.client.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-client|list")
    url = valkey.url.replace("redis://", "redis://u:p@")
    ran = stats("--json", "--redis-url", url)
    assert ran.exit_code == 0, ran.output
    [queue] = json.loads(ran.stdout)["queues"]
    assert (queue["workers"], queue["counts"]["waiting"]) == (None, 1)
    assert "?" in stats("--redis-url", url).stdout
    valkey.client.execute_command("ACL", "DELUSER", "u")


def test_a_table_for_people(stats, valkey):
    for _ in range(12):
        put(valkey, "llm-chat")
    ran = stats()
    assert ran.exit_code == 0, ran.output
    head, row = (
        next(line for line in ran.stdout.splitlines() if word in line)
        for word in ("prioritized", "llm-chat")
    )
    for state in STATES:
        assert state.replace("-", " ") in head
    assert row.split()[:2] == ["llm-chat", "12"]


def test_an_empty_server(stats):
    ran = stats()
    assert (ran.exit_code, ran.stdout.strip()) == (0, "no queues")


def test_without_a_server_the_command_says_so(stats, free_tcp_port):
    ran = stats("--redis-url", f"redis://127.0.0.1:{free_tcp_port}")
    assert ran.exit_code == 1
    assert "could not be reached" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a:b"], "colon"),
        (["--interval", "soon"], "expected a duration"),
        (["--redis-url", "localhost:6379"], "expected redis://"),
    ],
)
def test_what_cannot_be_meant_is_refused(stats, arguments, words):
    ran = stats(*arguments)
    assert ran.exit_code == 2
    assert words in ran.stderr


class Watch:
    """`queue stats --watch` as a process."""

    def __init__(self, url, folder, *arguments):
        command = [sys.executable, "-c", "from worker_core.cli.queue import command; command()"]
        command += ["stats", "--watch", "--interval", "100ms", "--redis-url", url, *arguments]
        # A terminal of its own, as people have: only there a table is drawn anew.
        self._terminal, other_end = os.openpty()
        os.set_blocking(self._terminal, False)
        self._seen = b""
        self.process = subprocess.Popen(
            command, stdin=other_end, stdout=other_end, stderr=other_end, cwd=folder
        )
        os.close(other_end)

    @property
    def output(self):
        """All that it has written so far."""
        try:
            while chunk := os.read(self._terminal, 65_536):
                self._seen += chunk
        except OSError:
            pass  # nothing more now, or the process has ended
        return self._seen.decode("utf-8", "replace")

    @property
    def moments(self):
        """The whole lines of JSON."""
        lines = self.output.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and "\n" in line]

    def interrupt(self):
        """Press Ctrl-C and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(10)
        assert "Traceback" not in self.output
        return code

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)


@pytest.fixture
def watch(tmp_path):
    started = []

    def start(url, *arguments):
        started.append(Watch(url, tmp_path, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


def waiting_in(moment):
    return moment["queues"][0]["counts"]["waiting"] if "queues" in moment else None


def test_watching_prints_a_line_each_time_until_ctrl_c(watch, valkey):
    put(valkey, "q")
    watching = watch(valkey.url, "--json")
    eventually(lambda: len(watching.moments) >= 2)
    put(valkey, "q")
    eventually(lambda: waiting_in(watching.moments[-1]) == 2)
    assert watching.interrupt() == 0


def test_watching_for_people_draws_the_table_anew(watch, valkey):
    put(valkey, "some-queue")
    watching = watch(valkey.url)
    eventually(lambda: watching.output.count("some-queue") >= 3)
    assert watching.interrupt() == 0


def test_watching_goes_on_through_an_outage(watch, free_tcp_port, tmp_path):
    with EmbeddedValkey(tmp_path, port=free_tcp_port) as server:
        watching = watch(server.url, "q", "--json")
        eventually(lambda: watching.moments)
    eventually(lambda: "error" in watching.moments[-1])
    with EmbeddedValkey(tmp_path, port=free_tcp_port):
        eventually(lambda: "queues" in watching.moments[-1])
        assert watching.interrupt() == 0

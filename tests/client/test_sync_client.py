"""The synchronous client against a real server and workers that are processes of their own."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest

from worker_core.client import (
    AddOptions,
    JobFailed,
    JobGone,
    JobRef,
    JobState,
    ResultExpired,
    ResultTimeout,
    SyncClient,
    flows,
)
from worker_core.errors import ConfigError, RedisUnavailable, ReplyError, ReplyLost
from worker_core.testing.polling import eventually

SOON = timedelta(seconds=20)
SHORT = timedelta(milliseconds=100)


@pytest.fixture
def client(valkey):
    with SyncClient(valkey.url) as made:
        yield made


@pytest.fixture
def worker(start_process):
    process = start_process("--plugins", "echo", "--engine", "none")
    process.wait_ready()
    return process


def test_a_job_completes_and_its_progress_is_told(client, worker):
    seen = []
    ref = client.submit("echo", {"text": "hi", "times": 2}, queue="echo")
    result = client.result(ref, timeout=SOON, on_progress=seen.append)
    assert (result.type, result.answer, result.attempt) == ("echo", "hi hi", 1)
    view = client.get(ref)
    assert (view.state, view.attempts_made) == (JobState.COMPLETED, 1)


def test_a_failed_job_raises_its_reason_and_trace(client, worker):
    ref = client.submit("echo", {}, queue="echo")
    with pytest.raises(JobFailed, match="text: missing") as caught:
        client.result(ref, timeout=SOON)
    assert (caught.value.attempts, len(caught.value.stacktrace)) == (1, 1)


def test_a_job_removed_on_completion_has_a_result_all_the_same(client, worker):
    ref = client.submit("echo", {"text": "a"}, queue="echo", options=AddOptions(keep_completed=0))
    assert client.result(ref, timeout=SOON).answer == "a"
    assert client.get(ref) is None


def test_one_client_serves_several_threads(client, worker):
    refs = [client.submit("echo", {"text": str(n)}, queue="echo") for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda ref: client.result(ref, timeout=SOON), refs))
    assert [result.answer for result in results] == ["0", "1", "2", "3"]


def test_the_end_is_heard_long_before_it_would_be_asked_for(valkey):
    with SyncClient(valkey.url, poll=timedelta(seconds=60)) as client:
        ref = client.submit("echo", None, queue="echo")
        with when_listening(valkey) as then:

            def end_another_and_this_one():
                other = JobRef("other", "echo")
                valkey.client.xadd("bull:echo:events", completed(other, '"not mine"'))
                valkey.client.xadd("bull:echo:events", completed(ref, '"told"'))

            then(end_another_and_this_one)
            assert client.result(ref, timeout=SOON).answer == "told"


def test_an_end_between_the_question_and_the_listening_is_not_missed(valkey, monkeypatch):
    def ends_meanwhile(keys, ref):
        final = yield from find_end(keys, ref)
        valkey.client.xadd("bull:echo:events", completed(ref, '"told"'))
        return final

    find_end = flows.find_end
    monkeypatch.setattr(flows, "find_end", ends_meanwhile)
    with SyncClient(valkey.url, poll=timedelta(seconds=60)) as client:
        ref = client.submit("echo", None, queue="echo")
        assert client.result(ref, timeout=timedelta(seconds=3)).answer == "told"


def test_an_end_whose_event_was_lost_is_found_by_asking(valkey):
    with SyncClient(valkey.url, poll=SHORT) as client, when_listening(valkey) as then:
        ref = client.submit("echo", None, queue="echo")

        def end_silently():
            valkey.client.hset(f"bull:echo:{ref.id}", "returnvalue", '"found"')
            valkey.client.zadd("bull:echo:completed", {ref.id: 1})

        then(end_silently)
        assert client.result(ref, timeout=SOON).answer == "found"


def test_a_large_result_is_followed_until_it_expires(valkey, client):
    ref = client.submit("echo", None, queue="echo")
    envelope = '{"type": "echo", "worker": "w", "timings": {}, "answer": %s}'
    pointer = envelope[:-1] % "null" + ', "stored": {"key": "big", "bytes": 9, "ttl_seconds": 60}}'
    valkey.client.hset(f"bull:echo:{ref.id}", "returnvalue", pointer)
    valkey.client.zadd("bull:echo:completed", {ref.id: 1})
    with pytest.raises(ResultExpired, match="kept for 1m"):
        client.result(ref, timeout=SOON)
    valkey.client.set("big", envelope % '"whole"')
    assert client.result(ref, timeout=SOON).answer == "whole"


def test_a_wait_is_bounded(client):
    ref = client.submit("echo", None, queue="echo")
    with pytest.raises(ResultTimeout, match="did not end within 100ms"):
        client.result(ref, timeout=SHORT)


def test_a_job_that_was_never_there_is_gone(client):
    with pytest.raises(JobGone):
        client.result(JobRef("77", "echo"), timeout=SOON)


def test_priority_and_delay_arrive(client):
    urgent = client.submit("echo", {}, queue="echo", options=AddOptions(priority=2))
    later = client.submit("echo", {}, queue="echo", options=AddOptions(delay=SOON))
    assert client.get(urgent).state is JobState.PRIORITIZED
    assert client.get(later).state is JobState.DELAYED


def test_what_the_server_refuses_is_a_reply_error(valkey, client):
    valkey.client.set("bull:echo:events", "no stream")
    with pytest.raises(ReplyError, match=r"WRONGTYPE|wrong kind"):
        client.submit("echo", {}, queue="echo")


def test_a_server_that_forgot_the_scripts_is_given_them(valkey, client):
    valkey.client.script_flush()
    assert client.get(client.submit("echo", {}, queue="echo")).state is JobState.WAITING


def test_a_replica_counts_as_no_server_until_it_is_the_primary_again(valkey):
    with SyncClient(valkey.url, patience=SHORT) as client:
        valkey.client.replicaof("127.0.0.1", 1)
        try:
            with pytest.raises(RedisUnavailable, match="refuses to serve"):
                client.submit("echo", {}, queue="echo")
        finally:
            valkey.client.replicaof("NO", "ONE")
        assert client.get(client.submit("echo", {}, queue="echo")).state is JobState.WAITING


def test_without_a_server_entering_is_refused_after_the_patience(free_tcp_port):
    with (
        pytest.raises(RedisUnavailable, match="could not be reached"),
        SyncClient(f"redis://127.0.0.1:{free_tcp_port}", patience=SHORT),
    ):
        pass


def test_a_url_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="url: scheme"):
        SyncClient("localhost:6379")


def test_a_job_whose_reply_was_lost_is_not_sent_again_unless_its_id_is_ones_own():
    with server_that_drops_scripts() as (url, calls), SyncClient(url, patience=SHORT) as client:
        with pytest.raises(ReplyLost):
            client.submit("echo", {}, queue="echo")
        assert len(calls) == 1
        with pytest.raises(ReplyLost):
            client.submit("echo", {}, queue="echo", options=AddOptions(job_id="mine"))
        assert len(calls) > 2


def test_importing_the_client_leaves_redis_py_out():
    code = "import sys, worker_core.client; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def completed(ref, value):
    return {"event": "completed", "jobId": ref.id, "returnvalue": value}


@contextmanager
def when_listening(valkey):
    """Do something, in a thread, once a client blocks on events."""
    threads = []

    def blocked():
        return [c for c in valkey.client.client_list() if c["cmd"] == "xread" and "b" in c["flags"]]

    def then(action):
        def run():
            eventually(blocked)
            action()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield then
    for thread in threads:
        thread.join(10)


@contextmanager
def server_that_drops_scripts():
    """Answer everything with OK; hang up at each script, as if its reply was lost."""
    calls = []

    def serve(connection):
        with connection:
            while data := connection.recv(65536):
                if b"EVAL" in data:
                    calls.append(data)
                    return
                connection.sendall(b"+OK\r\n" * len(re.findall(rb"\*\d+\r\n", data)))

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}", calls
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)

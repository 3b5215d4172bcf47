"""Stopping a worker: what fits the grace finishes, the rest goes back, nothing is lost."""

from __future__ import annotations

import base64
import signal
import time

import attrs
import pytest

from tests.integration.support import (
    CHAT,
    PROBE,
    Ledger,
    chat,
    fields_of,
    locks,
    probe,
    put,
    running,
    state_of,
)
from worker_core.testing.fake_engine import FaultAction, ScriptedFault
from worker_core.testing.polling import eventually_async


@pytest.fixture
def start_chat(start_process, fake_engine, tmp_path):
    """Start a process for chat jobs: texts with "hang" never get an answer, others take 1 s."""
    fake_engine.behaviour = attrs.evolve(
        fake_engine.behaviour, parallel=64, token_seconds=0.1, tokens=10
    )
    hang = ScriptedFault(
        action=FaultAction.HANG, path="/api/chat", contains="hang", count=None, after_chunks=1
    )
    fake_engine.script(hang)

    def start(worker="one", *, grace="2s", concurrency=20, config=""):
        file = tmp_path / f"{worker}.toml"
        file.write_text(f"[worker]\ngrace = '{grace}'\n{config}")
        process = start_process(
            *("--plugins", "chat", "--config", str(file)),
            environment={
                "WORKER_ID": worker,
                "WORKER_CONCURRENCY": str(concurrency),
                "MAX_CONCURRENT_REQUESTS": "64",
                "OLLAMA_BASE_URL": fake_engine.url,
            },
        )
        process.wait_ready()
        return process

    return start


async def exit_code(process, *, within=20.0):
    """Wait for the process without holding up the engine, which runs in this loop."""
    await eventually_async(lambda: process.process.poll() is not None, within=within)
    return process.process.poll()


async def generating(fake_engine, count):
    """Wait until so many answers are being generated."""
    await eventually_async(lambda: fake_engine.log.in_flight == count, what=f"{count} in flight")


def assert_returned(client, job_id, queue=CHAT, *, state="wait"):
    """The job stands where it stood, and its attempt is not spent."""
    fields = fields_of(client, job_id, queue)
    assert state_of(client, job_id, queue) == state, fields
    assert fields.get("atm", "0") == "0"
    assert fields["ats"] == "1"
    assert not fields.keys() & {"failedReason", "returnvalue", "finishedOn", "stacktrace"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_jobs_that_fit_the_grace_finish_and_the_others_are_returned(
    valkey, fake_engine, start_chat, number
):
    process = start_chat()
    short = [put(valkey.client, CHAT, chat(f"short {n}")) for n in range(10)]
    long = [put(valkey.client, CHAT, chat(f"hang {n}"), attempts=3) for n in range(10)]
    await generating(fake_engine, 20)
    waiting = put(valkey.client, CHAT, chat("never begun"))
    process.signal(number)
    assert await exit_code(process) == 0, process.log
    for job_id in short:
        assert state_of(valkey.client, job_id, CHAT) == "completed"
        assert fields_of(valkey.client, job_id, CHAT)["atm"] == "1"
    for job_id in long:
        assert_returned(valkey.client, job_id)
    assert state_of(valkey.client, waiting, CHAT) == "wait"
    assert "ats" not in fields_of(valkey.client, waiting, CHAT)
    # At the head, in front of what was never begun (BullMQ takes from the right).
    order = [job_id.decode() for job_id in valkey.client.lrange(f"bull:{CHAT}:wait", 0, -1)]
    assert order[0] == waiting
    assert set(order[1:]) == set(long)
    assert valkey.client.llen(f"bull:{CHAT}:active") == 0
    assert locks(valkey.client) == []


async def test_a_second_signal_skips_to_the_return(valkey, fake_engine, start_chat):
    process = start_chat(grace="10m")
    jobs = [put(valkey.client, CHAT, chat("hang")) for _ in range(3)]
    await generating(fake_engine, 3)
    process.signal(signal.SIGTERM)
    await eventually_async(lambda: '"stopping"' in process.log)
    process.signal(signal.SIGTERM)
    assert await exit_code(process, within=10) == 0, process.log
    for job_id in jobs:
        assert_returned(valkey.client, job_id)


async def test_a_stop_while_waiting_for_redis_ends_at_once(start_process, free_tcp_port):
    process = start_process(
        *("--plugins", "echo", "--engine", "none"),
        environment={"REDIS_URL": f"redis://127.0.0.1:{free_tcp_port}"},
    )
    await eventually_async(lambda: "no connection to" in process.log)
    process.signal(signal.SIGTERM)
    assert await exit_code(process, within=5) == 0, process.log


async def test_an_idle_worker_stops_at_once(start_chat):
    process = start_chat(grace="10m")
    process.signal(signal.SIGTERM)
    assert await exit_code(process, within=5) == 0, process.log


async def test_the_lock_of_a_long_job_is_kept_through_the_drain(valkey, fake_engine, start_chat):
    process = start_chat(
        grace="30s", config="[queue]\nlock_duration = '800ms'\nlock_renew_time = '400ms'\n"
    )
    fake_engine.behaviour = attrs.evolve(fake_engine.behaviour, token_seconds=0.3)
    job_id = put(valkey.client, CHAT, chat("three seconds"))
    await generating(fake_engine, 1)
    process.signal(signal.SIGTERM)
    left = []

    def ended():
        with valkey.client.pipeline() as both:
            both.lpos(f"bull:{CHAT}:active", job_id).pttl(f"bull:{CHAT}:{job_id}:lock")
            place, lock_ms = both.execute()
        if place is not None:
            left.append(lock_ms)
        return place is None

    await eventually_async(ended)
    assert await exit_code(process) == 0, process.log
    assert state_of(valkey.client, job_id, CHAT) == "completed"
    assert fields_of(valkey.client, job_id, CHAT)["atm"] == "1"
    assert min(left) > 0
    assert "lock lost" not in process.log


async def test_another_idle_worker_takes_returned_jobs_at_once(valkey, fake_engine, start_chat):
    first = start_chat("first", grace="100ms", concurrency=3)
    jobs = [put(valkey.client, CHAT, chat("hang")) for _ in range(2)]
    jobs.append(put(valkey.client, CHAT, chat("hang"), priority=3))
    await generating(fake_engine, 3)
    second = start_chat("second")
    fake_engine.faults.clear()
    first.signal(signal.SIGTERM)
    assert await exit_code(first) == 0, first.log
    returned_at = time.monotonic()
    for job_id in jobs:
        await eventually_async(
            lambda job_id=job_id: state_of(valkey.client, job_id, CHAT) == "completed"
        )
        fields = fields_of(valkey.client, job_id, CHAT)
        assert fields["pb"] == "second"
        assert (fields["ats"], fields["atm"]) == ("2", "1")
    # One second is what the answers take.
    assert time.monotonic() - returned_at < 4
    assert second.process.poll() is None


async def test_an_idle_worker_hears_of_a_returned_prioritized_job_at_once(valkey):
    """BullMQ's script writes no marker for those: their worker has to."""
    first, second = Ledger(), Ledger()
    settings = {"worker": {"grace": "10ms"}, "queue": {"drain_delay": "1m"}}
    async with running(valkey.url, probe(first), settings) as one:
        job_id = put(valkey.client, PROBE, {"seconds": 2.0}, priority=3)
        await eventually_async(lambda: first.began)
        async with running(valkey.url, probe(second), settings):
            idle = f"bull:{base64.b64encode(PROBE.encode()).decode()}:w:"
            await eventually_async(
                lambda: (
                    sum(
                        client["name"].startswith(idle) and client["cmd"] == "bzpopmin"
                        for client in valkey.client.client_list()
                    )
                    == 2
                )
            )
            await one.stop(within=10)
            await eventually_async(lambda: second.began == [job_id], within=3)


async def test_a_prioritized_job_goes_back_among_the_prioritized(valkey):
    ledger = Ledger()
    settings = {"worker": {"concurrency": 1, "grace": "50ms"}}
    async with running(valkey.url, probe(ledger), settings) as one:
        job_id = put(valkey.client, PROBE, {"do": "hang"}, priority=5)
        await eventually_async(lambda: ledger.began)
        later = put(valkey.client, PROBE, {"do": "hang"}, priority=5)
        await one.stop(within=10)
    assert_returned(valkey.client, job_id, PROBE, state="prioritized")
    assert valkey.client.zrange(f"bull:{PROBE}:prioritized", 0, -1) == [
        job_id.encode(),
        later.encode(),
    ]


async def test_a_job_that_ignores_its_cancel_for_a_while_is_returned(valkey):
    ledger = Ledger()
    async with running(valkey.url, probe(ledger), {"worker": {"grace": "100ms"}}) as one:
        job_id = put(valkey.client, PROBE, {"do": "ignore", "seconds": 1.0})
        await eventually_async(lambda: ledger.began)
        await one.stop(within=10)
    assert ledger.cancelled == [job_id]
    assert_returned(valkey.client, job_id, PROBE)


async def test_a_job_that_fails_while_draining_is_recorded(valkey):
    ledger = Ledger()
    failing = {"do": "fail", "seconds": 0.3, "text": "no luck"}
    async with running(valkey.url, probe(ledger), {"worker": {"grace": "10s"}}) as one:
        retried = put(valkey.client, PROBE, failing, attempts=2)
        failed = put(valkey.client, PROBE, failing)
        await eventually_async(lambda: len(ledger.began) == 2)
        await one.stop(within=10)
    assert state_of(valkey.client, retried) == "wait"
    assert state_of(valkey.client, failed) == "failed"
    for job_id in (retried, failed):
        fields = fields_of(valkey.client, job_id)
        assert (fields["ats"], fields["atm"]) == ("1", "1")
        assert fields["failedReason"] == "RuntimeError: no luck"


async def test_a_stop_takes_nothing_new_with_a_finish(valkey):
    """While draining a finish must not bring the next job along."""
    ledger = Ledger()
    settings = {"worker": {"concurrency": 1, "grace": "10s"}}
    async with running(valkey.url, probe(ledger), settings) as one:
        first = put(valkey.client, PROBE, {"seconds": 0.3})
        await eventually_async(lambda: ledger.began)
        second = put(valkey.client, PROBE, {})
        await one.stop(within=10)
    assert ledger.ended == [first]
    assert state_of(valkey.client, first) == "completed"
    assert state_of(valkey.client, second) == "wait"
    assert "ats" not in fields_of(valkey.client, second)


async def test_stopping_under_load_leaves_every_job_somewhere(valkey):
    """Jobs come and go in milliseconds while the stop comes: none is active, none is counted twice."""
    ledger = Ledger()
    jobs = [put(valkey.client, PROBE, {}) for _ in range(400)]
    settings = {"worker": {"concurrency": 8, "grace": "5s"}}
    async with running(valkey.url, probe(ledger), settings) as one:
        await eventually_async(lambda: len(ledger.ended) >= 50)
        await one.stop(within=10)
    states = [state_of(valkey.client, job_id) for job_id in jobs]
    assert set(states) <= {"completed", "wait"}
    assert states.count("completed") == len(ledger.ended) < 400
    assert locks(valkey.client) == []

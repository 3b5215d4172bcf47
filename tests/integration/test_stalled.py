"""Workers that die or freeze while they hold jobs: the jobs go on, and are written once."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections import Counter

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
from worker_core import Outcome
from worker_core._bullmq.calls import ClaimOptions, claim
from worker_core._bullmq.keys import QueueKeys
from worker_core.testing.fake_engine import FaultAction, RequestOutcome, ScriptedFault
from worker_core.testing.polling import eventually_async

BASE = f"bull:{PROBE}"
TOO_OFTEN = "job stalled more than allowable limit"
"""BullMQ's own words."""

LOCK, INTERVAL = 1.2, 0.8
QUEUE_CONFIG = f"""\
[queue]
lock_duration = '{LOCK}s'
lock_renew_time = '{LOCK / 2}s'
stalled_interval = '{INTERVAL}s'
"""
IMPATIENT = "drain_delay = '300ms'\n"
"""A worker that stands still is still first in the line of those who wait for jobs, and takes the
word of one with it: the others see the job at the end of their own wait."""


# A worker that never was: the witness claims a job in its name and lets the lock run out


def claim_as_ghost(client, queue=PROBE, *, lock_ms=1):
    """Make the next job active for a worker that does not live."""
    options = ClaimOptions(worker="ghost", lock_ms=lock_ms)
    call = claim(QueueKeys("bull", queue), "ghost:0", options)
    client.eval(call.script.source, len(call.keys), *call.keys, *call.args)


async def abandon(client, job_id, *, noticed=True):
    """Leave the job as a dead worker does: active without a lock, seen by one stalled check."""
    claim_as_ghost(client)
    assert state_of(client, job_id) == "active"
    if noticed:
        client.sadd(f"{BASE}:stalled", job_id)
    await eventually_async(lambda: not client.exists(f"{BASE}:{job_id}:lock"))


def events_of(client, job_id, queue=PROBE):
    """How often each event of a job was published."""
    entries = [fields for _, fields in client.xrange(f"bull:{queue}:events")]
    return Counter(
        fields[b"event"].decode() for fields in entries if fields.get(b"jobId") == job_id.encode()
    )


async def test_the_stalled_check_runs_at_once_on_start(valkey):
    client, ledger = valkey.client, Ledger()
    job_id = put(client, PROBE, {})
    await abandon(client, job_id)
    async with running(valkey.url, probe(ledger), {"queue": {"stalled_interval": "1h"}}):
        await eventually_async(lambda: state_of(client, job_id) == "completed", within=5)
    fields = fields_of(client, job_id)
    assert (fields["stc"], fields["ats"], fields["atm"]) == ("1", "2", "1")
    assert events_of(client, job_id)["stalled"] == 1
    assert ledger.began == [job_id]


async def test_the_stalled_check_runs_in_each_interval(valkey):
    client, ledger = valkey.client, Ledger()
    settings = {
        "worker": {"concurrency": 1},
        "queue": {"stalled_interval": "200ms", "max_stalled_count": 9},
    }
    async with running(valkey.url, probe(ledger), settings):
        put(client, PROBE, {"do": "hang"})
        await eventually_async(lambda: ledger.began)
        job_id = put(client, PROBE, {})
        for stalls in range(1, 4):
            # The first check notes the job, the second puts it back.
            await abandon(client, job_id, noticed=False)
            await eventually_async(
                lambda stalls=stalls: events_of(client, job_id)["stalled"] == stalls, within=5
            )
            assert state_of(client, job_id) == "wait"


async def test_the_next_check_is_in_time_though_who_made_the_last_is_dead(valkey):
    """One worker in each interval makes the check; the others must not wait a whole one more."""
    client, ledger = valkey.client, Ledger()
    job_id = put(client, PROBE, {})
    await abandon(client, job_id)
    client.set(f"{BASE}:stalled-check", "the dead worker's", px=500)
    async with running(valkey.url, probe(ledger), {"queue": {"stalled_interval": "1h"}}):
        await eventually_async(lambda: state_of(client, job_id) == "completed", within=5)
    assert ledger.began == [job_id]


async def test_a_job_that_is_renewed_never_stalls(valkey):
    client, ledger = valkey.client, Ledger()
    settings = {
        "queue": {
            "lock_duration": "600ms",
            "lock_renew_time": "300ms",
            "stalled_interval": "100ms",
        }
    }
    async with running(valkey.url, probe(ledger), settings):
        job_id = put(client, PROBE, {"seconds": 2.0})
        await eventually_async(lambda: state_of(client, job_id) == "completed")
    assert ledger.began == ledger.ended == [job_id]
    assert events_of(client, job_id)["stalled"] == 0
    assert fields_of(client, job_id)["ats"] == "1"


# Stalled too often


async def test_a_job_that_stalled_too_often_fails_unrun_though_attempts_are_left(valkey):
    client, ledger = valkey.client, Ledger()
    job_id = put(client, PROBE, {}, attempts=5)
    await abandon(client, job_id)
    settings = {"queue": {"max_stalled_count": 0}}
    async with running(valkey.url, probe(ledger), settings):
        await eventually_async(lambda: state_of(client, job_id) == "failed")
        after = put(client, PROBE, {})
        await eventually_async(lambda: state_of(client, after) == "completed")
    assert ledger.began == [after]
    fields = fields_of(client, job_id)
    assert fields["failedReason"] == TOO_OFTEN
    assert (fields["ats"], fields["atm"]) == ("2", "1")
    assert "returnvalue" not in fields
    assert events_of(client, job_id)["failed"] == 1
    assert locks(client) == []


async def test_a_job_that_was_started_too_often_fails_unrun_though_attempts_are_left(valkey):
    client, ledger = valkey.client, Ledger()
    job_id = put(client, PROBE, {}, attempts=5)
    await abandon(client, job_id)
    settings = {"queue": {"max_started_attempts": 1}}
    async with running(valkey.url, probe(ledger), settings):
        await eventually_async(lambda: state_of(client, job_id) == "failed")
    assert ledger.began == []
    assert "started more than" in fields_of(client, job_id)["failedReason"]


async def test_a_job_within_its_starts_is_run(valkey):
    client, ledger = valkey.client, Ledger()
    job_id = put(client, PROBE, {})
    await abandon(client, job_id)
    settings = {"queue": {"max_started_attempts": 2}}
    async with running(valkey.url, probe(ledger), settings):
        await eventually_async(lambda: state_of(client, job_id) == "completed")
    assert ledger.began == [job_id]


# Worker processes that are killed and stopped


@pytest.fixture
def start_chat(start_process, fake_engine, tmp_path):
    """Start a process for chat jobs; a text with "hang" gets no answer while the fault is there."""
    fake_engine.behaviour = attrs.evolve(fake_engine.behaviour, parallel=64, token_seconds=0.05)
    fake_engine.script(
        ScriptedFault(
            action=FaultAction.HANG, path="/api/chat", contains="hang", count=None, after_chunks=1
        )
    )

    async def start(name, queue_config=""):
        file = tmp_path / f"{name}.toml"
        file.write_text(QUEUE_CONFIG + queue_config)
        process = start_process(
            *("--plugins", "chat", "--config", str(file)),
            environment={"WORKER_ID": name, "OLLAMA_BASE_URL": fake_engine.url},
        )
        await eventually_async(
            lambda: "ready" in process.log or process.process.poll() is not None, within=20
        )
        return process

    return start


def chats(fake_engine):
    """The requests that asked something: a load does not."""
    return [request for request in fake_engine.log.select("/api/chat") if request.inputs]


async def answering(fake_engine, count):
    """Wait until so many chats came."""
    await eventually_async(lambda: len(chats(fake_engine)) == count, what=f"{count} chats")


def owner_of(client, job_id):
    return fields_of(client, job_id, CHAT).get("pb")


def recorded_by(client, job_id):
    """Who answered the job, by the answer that was recorded; once, as its events say."""
    assert state_of(client, job_id, CHAT) == "completed"
    events = events_of(client, job_id, CHAT)
    assert (events["completed"], events["failed"]) == (1, 0)
    fields = fields_of(client, job_id, CHAT)
    answered_by = json.loads(fields["returnvalue"])["worker"]
    assert fields["pb"] == answered_by
    return answered_by


async def test_a_killed_workers_job_is_run_by_another_in_time(valkey, fake_engine, start_chat):
    client = valkey.client
    first = await start_chat("first")
    job_id = put(client, CHAT, chat("hang"))
    await answering(fake_engine, 1)
    await start_chat("second")
    fake_engine.faults.clear()
    first.kill()
    killed_at = time.monotonic()
    await eventually_async(lambda: owner_of(client, job_id) == "second")
    assert time.monotonic() - killed_at < LOCK + INTERVAL + 0.5
    await eventually_async(lambda: state_of(client, job_id, CHAT) == "completed")
    assert recorded_by(client, job_id) == "second"
    assert len(chats(fake_engine)) == 2


async def test_a_job_that_kills_its_workers_is_stopped_by_the_third(
    valkey, fake_engine, start_chat
):
    client = valkey.client
    job_id = put(client, CHAT, chat("hang"), attempts=9)
    for runs, name in enumerate(("first", "second"), 1):
        worker = await start_chat(name)
        await answering(fake_engine, runs)
        worker.kill()
    await start_chat("third")
    await eventually_async(lambda: state_of(client, job_id, CHAT) == "failed")
    assert len(chats(fake_engine)) == 2
    fields = fields_of(client, job_id, CHAT)
    assert fields["failedReason"] == TOO_OFTEN
    assert (fields["stc"], fields["ats"], fields["pb"]) == ("2", "3", "third")


async def test_a_worker_that_wakes_after_another_answered_writes_nothing(
    valkey, fake_engine, start_chat
):
    client = valkey.client
    first = await start_chat("first")
    job_id = put(client, CHAT, chat("hang"))
    await answering(fake_engine, 1)
    first.signal(signal.SIGSTOP)
    fake_engine.faults.clear()
    await start_chat("second", IMPATIENT)
    await eventually_async(lambda: state_of(client, job_id, CHAT) == "completed")
    before = fields_of(client, job_id, CHAT)
    first.signal(signal.SIGCONT)
    await eventually_async(lambda: "lock lost: the job is stopped" in first.log)
    [mine, _] = chats(fake_engine)
    await eventually_async(lambda: mine.outcome is RequestOutcome.DISCONNECTED)
    first.signal(signal.SIGTERM)
    await eventually_async(lambda: first.process.poll() == 0, what=first.log)
    assert recorded_by(client, job_id) == "second"
    assert fields_of(client, job_id, CHAT) == before


@pytest.mark.parametrize("meanwhile", ["runs", "completed"])
async def test_a_worker_that_wakes_with_its_answer_writes_nothing(
    valkey, fake_engine, start_chat, meanwhile
):
    """The engine's answer lies in the first worker's socket when it wakes: all that is left to do
    is to write it, while another worker runs the job or has completed it."""
    client = valkey.client
    fake_engine.behaviour = attrs.evolve(fake_engine.behaviour, tokens=10)
    first = await start_chat("first")
    job_id = put(client, CHAT, chat("half a second"))
    await answering(fake_engine, 1)
    first.signal(signal.SIGSTOP)
    [mine] = chats(fake_engine)
    await eventually_async(lambda: mine.outcome is RequestOutcome.ANSWERED)
    if meanwhile == "runs":
        fake_engine.behaviour = attrs.evolve(fake_engine.behaviour, token_seconds=0.2)
    await start_chat("second", IMPATIENT)
    await answering(fake_engine, 2)
    if meanwhile == "completed":
        await eventually_async(lambda: state_of(client, job_id, CHAT) == "completed")
    first.signal(signal.SIGCONT)
    await eventually_async(lambda: '"job lost' in first.log or '"lock lost' in first.log)
    assert state_of(client, job_id, CHAT) == ("active" if meanwhile == "runs" else "completed")
    first.signal(signal.SIGTERM)
    await eventually_async(lambda: first.process.poll() == 0, what=first.log)
    await eventually_async(lambda: state_of(client, job_id, CHAT) == "completed")
    assert recorded_by(client, job_id) == "second"
    assert len(chats(fake_engine)) == 2


# Stopping


@pytest.fixture
def limited(valkey):
    """A user of the server whose rights can be taken: `limited("no finish")`, `limited("all")`."""
    rules = {
        # Every key but `completed`: claims and renewals work, finishing does not.
        "no finish": ("resetkeys", f"~{BASE}:[^c]*"),
        "all": ("resetkeys", "~*"),
    }

    def allow(what):
        valkey.client.execute_command("ACL", "SETUSER", "limited", *rules[what])

    valkey.client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "+@all")
    allow("all")
    yield allow
    valkey.client.execute_command("ACL", "DELUSER", "limited")


async def test_locks_are_renewed_until_the_last_finish_is_acknowledged(valkey, limited):
    """The server refuses the finish for longer than the lock lasts, while the worker drains."""
    client, ledger = valkey.client, Ledger()
    lock_ms = 600
    settings = {
        "worker": {"grace": "20s"},
        "queue": {"lock_duration": f"{lock_ms}ms", "lock_renew_time": f"{lock_ms // 2}ms"},
    }
    url = f"redis://limited:secret@127.0.0.1:{valkey.server.port}"
    async with running(url, probe(ledger), settings) as one:
        job_id = put(client, PROBE, {"seconds": 0.3})
        await eventually_async(lambda: ledger.began)
        limited("no finish")
        one.worker.request_stop("the test asks for it")
        await eventually_async(lambda: ledger.ended)
        lock = f"{BASE}:{job_id}:lock"
        refused_from = time.monotonic()
        # A renewal each time that what is left has grown.
        left = [client.pttl(lock)]

        def grew():
            left.append(client.pttl(lock))
            assert left[-1] > 0, "the lock ran out"
            return time.monotonic() - refused_from > 3 * lock_ms / 1000

        await eventually_async(grew)
        assert sum(later > earlier for earlier, later in itertools.pairwise(left)) >= 3
        limited("all")
        await one.stop(within=10)
    assert state_of(client, job_id) == "completed"
    assert ledger.outcomes == [(job_id, Outcome.COMPLETED)]
    assert fields_of(client, job_id)["atm"] == "1"
    assert locks(client) == []


async def test_a_worker_that_stops_during_anothers_stalled_checks_loses_nothing(valkey):
    """Its jobs end, or go back, between two checks that come all the time; none has stalled."""
    client, first, second = valkey.client, Ledger(), Ledger()
    jobs = [put(client, PROBE, {"seconds": 0.02 * (n % 10)}) for n in range(120)]
    stopping = {"worker": {"concurrency": 20, "grace": "50ms"}}
    sweeping = {"worker": {"concurrency": 4}, "queue": {"stalled_interval": "10ms"}}
    async with running(valkey.url, probe(second), sweeping):
        async with running(valkey.url, probe(first), stopping) as one:
            await eventually_async(lambda: len(first.ended) >= 20)
            await one.stop(within=10)
        await eventually_async(lambda: client.zcard(f"{BASE}:completed") == len(jobs))
    returned = [job_id for job_id, outcome in first.outcomes if outcome is Outcome.RETURNED]
    assert returned
    for job_id in jobs:
        events = events_of(client, job_id)
        assert (events["completed"], events["stalled"], events["failed"]) == (1, 0, 0)
        assert fields_of(client, job_id)["atm"] == "1"
    assert locks(client) == []

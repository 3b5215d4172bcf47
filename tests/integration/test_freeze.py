"""A plugin that blocks the event loop: the watchdog says where, probes say so, and it passes."""

from __future__ import annotations

import json
import signal
import threading
import time
from datetime import timedelta

import anyio
import httpx
import pytest
from structlog.testing import capture_logs

from tests.integration.support import fields_of, put, state_of
from worker_core._runtime import watchdog as watchdog_module
from worker_core._runtime.watchdog import Watchdog
from worker_core.testing.polling import eventually, eventually_async

QUEUE = "block"
LIMIT = 0.4
SLACK = 0.6
"""What the watchdog's own rounds and a busy machine take."""

# As somebody outside would write it: importable, with an entry point, and wrong.
BLOCKER = """\
import os
import time

import attrs

from worker_core import JobType, QueueSpec, hookimpl


@attrs.frozen
class BlockRequest:
    seconds: float = 0.0
    only_in: str = ""


def grind(seconds):
    time.sleep(seconds)  # this is the fault


class BlockJobType(JobType[BlockRequest]):
    name = "block"
    queues = (QueueSpec("block"),)
    request = BlockRequest
    needs_engine = False

    async def run(self, request, context):
        if request.only_in in ("", os.environ["WORKER_ID"]):
            grind(request.seconds)
        return os.environ["WORKER_ID"]


class BlockerPlugin:
    @hookimpl
    def worker_core_job_types(self):
        return [BlockJobType()]
"""
METADATA = "Metadata-Version: 2.1\nName: worker-core-blocker\nVersion: 1.0\n"
ENTRY_POINTS = "[worker_core.plugins]\nblocker = worker_core_blocker:BlockerPlugin\n"


@pytest.fixture
def site(tmp_path):
    """A folder with the blocking plugin, as an installer leaves it."""
    folder = tmp_path / "site"
    info = folder / "worker_core_blocker-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "worker_core_blocker.py").write_text(BLOCKER)
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture
def start_blocker(start_process, site, tmp_path):
    """Start a worker process with the plugin, and with health on a free port."""

    def start(name="first", *, queue=""):
        file = tmp_path / f"{name}.toml"
        file.write_text(
            '[worker]\nengine = "none"\nplugins = ["blocker", "health"]\n'
            f"freeze_limit = '{LIMIT}s'\n[plugins.health]\nport = 0\n[queue]\n{queue}\n"
        )
        process = start_process(
            *("--config", str(file)), environment={"PYTHONPATH": str(site), "WORKER_ID": name}
        )
        process.wait_ready()
        return process

    return start


def logged(process, event):
    """The log entries of an event."""
    entries = [json.loads(line) for line in process.log.splitlines() if line.startswith("{")]
    return [entry for entry in entries if entry["event"].startswith(event)]


def live(process):
    [listening] = logged(process, "listening")
    return httpx.get(f"{listening['url']}/health/live", trust_env=False, timeout=10)


def test_a_plugin_that_blocks_is_named_while_it_blocks(valkey, start_blocker):
    client = valkey.client
    process = start_blocker()
    assert live(process).status_code == 200
    job_id = put(client, QUEUE, {"seconds": 2.5})
    eventually(lambda: state_of(client, job_id, QUEUE) == "active")
    began_at = time.monotonic()
    [hang] = eventually(lambda: logged(process, "the event loop hangs"), within=2.5)
    assert time.monotonic() - began_at < LIMIT + SLACK
    assert state_of(client, job_id, QUEUE) == "active"
    assert hang["level"] == "critical"
    assert "worker_core_blocker.py" in hang["stack"]
    assert "in grind\n    time.sleep(seconds)  # this is the fault" in hang["stack"]
    # It ends, and is told once, with its length.
    eventually(lambda: state_of(client, job_id, QUEUE) == "completed")
    [again] = eventually(lambda: logged(process, "the event loop runs again"))
    assert again["seconds"] == pytest.approx(2.5, abs=LIMIT)
    assert len(logged(process, "the event loop hangs")) == 1


def test_a_worker_that_hung_a_moment_ago_is_not_alive(valkey, start_blocker):
    process = start_blocker()
    put(valkey.client, QUEUE, {"seconds": 1.2})
    eventually(lambda: logged(process, "the event loop hangs"))
    answer = live(process)  # which waits until the loop runs again
    assert answer.status_code == 503
    assert answer.json()["status"] == "frozen"
    assert "event loop" in answer.json()["reason"]


def test_a_hang_longer_than_its_lock_costs_the_job_and_nothing_is_written_twice(
    valkey, start_blocker
):
    """Another worker runs the job; the first, when it comes back, leaves it alone."""
    client = valkey.client
    queue = (
        'lock_duration = "600ms"\nlock_renew_time = "300ms"\nstalled_interval = "300ms"\n'
        'drain_delay = "300ms"'
    )
    second = start_blocker("second", queue=queue)
    first = start_blocker("first", queue=queue)
    jobs = []
    while not logged(first, "the event loop hangs"):
        # Whoever gets it: it hangs in the first only.
        jobs.append(put(client, QUEUE, {"seconds": 3.0, "only_in": "first"}))
        eventually(
            lambda: (
                state_of(client, jobs[-1], QUEUE) == "completed"
                or logged(first, "the event loop hangs")
            )
        )
    eventually(lambda: client.zcard(f"bull:{QUEUE}:completed") == len(jobs), within=15)
    finished = {job_id: fields_of(client, job_id, QUEUE) for job_id in jobs}
    assert {fields["pb"] for fields in finished.values()} == {"second"}
    eventually(lambda: logged(first, "the event loop runs again"))
    eventually(lambda: "job lost" in first.log or "lock lost" in first.log)
    assert second.process.poll() is first.process.poll() is None
    for job_id, fields in finished.items():
        assert fields_of(client, job_id, QUEUE) == fields
    events = client.xrange(f"bull:{QUEUE}:events")
    ended = [entry[b"jobId"].decode() for _, entry in events if entry[b"event"] == b"completed"]
    assert sorted(ended) == sorted(jobs)


# The watchdog in a loop of ours


@pytest.fixture
async def watched():
    """A watchdog of the test's own loop, with its pulse."""
    watchdog = Watchdog(timedelta(milliseconds=100))
    with watchdog.watching():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watchdog.pulse)
            yield watchdog
            tasks.cancel_scope.cancel()


async def test_a_loop_that_runs_is_not_called_frozen(watched):
    began_at = time.monotonic()

    def runs_on():
        assert watched.frozen_reason is None
        return time.monotonic() - began_at > 0.4

    with capture_logs() as logs:
        await eventually_async(runs_on)
    assert logs == []


async def test_a_hang_is_known_while_it_lasts_and_for_a_while_after(watched, monkeypatch):
    monkeypatch.setattr(watchdog_module, "_REMEMBERED", 0.3)
    reasons = []

    def look():
        reasons.append(eventually(lambda: watched.frozen_reason, within=3))

    looking = threading.Thread(target=look)
    looking.start()
    looking.join()  # this blocks the loop until the watchdog has noticed
    assert "the event loop hangs for 0." in reasons[0]
    reason = await eventually_async(
        lambda: "a moment ago" in (watched.frozen_reason or "") and watched.frozen_reason
    )
    assert reason.startswith("the event loop hung for 0.")
    await eventually_async(lambda: watched.frozen_reason is None, within=3)


def test_a_process_that_was_stopped_is_not_taken_for_a_hang(start_blocker):
    process = start_blocker()
    assert live(process).status_code == 200
    process.signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    eventually(lambda: time.monotonic() - stopped_at > 4 * LIMIT)
    process.signal(signal.SIGCONT)
    rounds_end = time.monotonic() + 2 * LIMIT
    eventually(lambda: time.monotonic() > rounds_end and live(process).status_code == 200)
    assert logged(process, "the event loop hangs") == []

"""`worker-core circuits` against running workers and a real server."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest
from pytest_trio import trio_fixture

from tests.integration.support import CHAT, chat, put, state_of
from worker_core.control import ControlAction, ControlRequest, answer_key, control_channel, write
from worker_core.testing.fake_engine import FaultAction, ScriptedFault
from worker_core.testing.polling import eventually_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from worker_core._runtime.worker import Worker
    from worker_core.testing.fake_engine import FakeEngine
    from worker_core.testing.fixtures import ValkeyFixture

CHANNEL = control_channel("bull")


@attrs.frozen
class Ran:
    """What a command has left."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def circuits(valkey: ValkeyFixture, tmp_path: Path) -> Callable[..., Awaitable[Ran]]:
    """Run the command as a process: the workers that answer it log in the test's own."""

    async def run(*arguments: str) -> Ran:
        ran = await anyio.run_process(
            [sys.executable, "-m", "worker_core", "circuits", *arguments],
            env={**os.environ, "REDIS_URL": valkey.url},
            cwd=tmp_path,
            check=False,
        )
        return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())

    return run


@trio_fixture
async def start(
    valkey: ValkeyFixture,
    fake_engine: FakeEngine,
    start_worker: Callable[..., Awaitable[Worker]],
) -> Callable[[str], Awaitable[Worker]]:
    """Start a worker whose circuits open at the first failure, and for long."""

    async def start_one(name: str) -> Worker:
        heard = valkey.client.pubsub_numsub(CHANNEL)[0][1]
        ollama = {"base_url": fake_engine.url, "max_retries": 0}
        circuit = {"consecutive": 1, "open_for": "5m", "max_open": "5m"}
        tables = {
            "worker": {"id": name, "plugins": ["chat"]},
            "plugins": {"ollama": {**ollama, "circuit": circuit}},
        }
        worker = await start_worker(tables)
        await eventually_async(lambda: valkey.client.pubsub_numsub(CHANNEL)[0][1] == heard + 1)
        return worker

    return start_one


async def open_circuit(valkey: ValkeyFixture, engine: FakeEngine) -> None:
    """Let a job fail; the circuit of its model opens where it ran."""
    engine.script(ScriptedFault(action=FaultAction.STATUS, path="/api/chat", model="llama3"))
    job_id = put(valkey.client, CHAT, chat("hi"))
    await eventually_async(lambda: state_of(valkey.client, job_id, CHAT) in {"failed", "delayed"})


async def test_every_worker_says_how_its_circuits_stand(valkey, fake_engine, start, circuits):
    await start("one")
    await open_circuit(valkey, fake_engine)
    await start("two")
    ran = await circuits("list")
    assert ran.exit_code == 0, ran.stderr
    assert "2 of 2 workers answered" in ran.stderr
    [row] = [line for line in ran.stdout.splitlines() if "chat:llama3" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    host = fake_engine.url.removeprefix("http://")
    assert cells[:5] == ["one", host, "chat:llama3", "open", "1 of 1"]
    assert cells[5].startswith(("4m", "5m"))
    ran = await circuits("list", "--json")
    said = json.loads(ran.stdout)
    assert said["heard"] == 2
    assert [one["worker"] for one in said["workers"]] == ["one", "two"]
    found = {one["circuit"]: one["state"] for one in said["workers"][0]["circuits"]}
    assert found == {"host": "closed", "chat:llama3": "open"}
    assert said["workers"][1]["circuits"] == []


async def test_a_circuit_is_closed_by_name_however_its_model_is_spelt(
    valkey, fake_engine, start, circuits
):
    await start("one")
    await open_circuit(valkey, fake_engine)
    waiting = put(valkey.client, CHAT, chat("again"))
    await eventually_async(lambda: state_of(valkey.client, waiting, CHAT) == "delayed")
    for arguments in (["chat:other"], ["chat:llama3", "--host", "elsewhere:1"]):
        ran = await circuits("reset", *arguments, "--json")
        assert ran.exit_code == 0
        assert json.loads(ran.stdout)["workers"] == [{"worker": "one", "circuits": []}]
    ran = await circuits("reset", "chat:Llama3:latest", "--json")
    [closed] = json.loads(ran.stdout)["workers"][0]["circuits"]
    assert (closed["circuit"], closed["state"], closed["failures"]) == ("chat:llama3", "closed", 0)
    # The engine is asked again at once.
    fresh = put(valkey.client, CHAT, chat("and again"))
    await eventually_async(lambda: state_of(valkey.client, fresh, CHAT) == "completed")


async def test_without_a_name_all_circuits_are_closed(valkey, fake_engine, start, circuits):
    await start("one")
    await open_circuit(valkey, fake_engine)
    ran = await circuits("reset")
    assert ran.exit_code == 0
    assert "host" in ran.stdout
    assert "chat:llama3" in ran.stdout
    assert "│ open" not in ran.stdout


async def test_a_worker_that_does_not_answer_is_missed(valkey, start, circuits):
    await start("one")
    with valkey.client.pubsub() as silent:
        silent.subscribe(CHANNEL)
        await eventually_async(lambda: valkey.client.pubsub_numsub(CHANNEL)[0][1] == 2)
        ran = await circuits("list", "--timeout", "300ms")
    assert ran.exit_code == 1
    assert "1 of 2 workers answered" in ran.stderr
    assert "1 workers heard the question and did not answer" in ran.stderr
    assert "no circuits" in ran.stdout


async def test_that_nobody_heard_is_said(valkey, circuits):
    ran = await circuits("list")
    assert ran.exit_code == 1
    assert "no worker heard the question" in ran.stderr


async def test_a_worker_of_another_prefix_is_not_asked(valkey, start, circuits):
    await start("one")
    ran = await circuits("list", "--prefix", "other")
    assert ran.exit_code == 1


async def test_what_is_no_request_is_not_answered_and_ends_nothing(valkey, start, circuits):
    await start("one")
    keys = set(valkey.client.keys("bull:worker-core:*"))
    good = json.loads(write(ControlRequest(action=ControlAction.LIST_CIRCUITS)))
    for bad in (b"", b"\xff", b"[]", b"{}", {**good, "id": "../x"}, {**good, "action": "stop"}):
        raw = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
        assert valkey.client.publish(CHANNEL, raw) == 1
    assert (await circuits("list")).exit_code == 0
    assert set(valkey.client.keys("bull:worker-core:*")) == keys


async def test_an_answer_that_nobody_reads_is_gone_after_a_while(valkey, start):
    await start("one")
    request = ControlRequest(action=ControlAction.LIST_CIRCUITS)
    valkey.client.publish(CHANNEL, write(request))
    key = answer_key("bull", request)
    await eventually_async(lambda: 0 < valkey.client.ttl(key) <= 30)


async def test_a_reset_lets_a_consumer_claim_again_that_waits_for_its_host(
    valkey, fake_engine, start, circuits
):
    client = valkey.client
    await start("one")
    fake_engine.script(ScriptedFault(action=FaultAction.CLOSE, path="/api/ps", count=4))
    first = [put(client, CHAT, chat("hi")) for _ in range(4)]
    await eventually_async(
        lambda: all(state_of(client, job_id, CHAT) == "delayed" for job_id in first)
    )
    later = put(client, CHAT, chat("later"))
    ran = await circuits("list", "--json")
    assert '"state": "open"' in ran.stdout
    assert state_of(client, later, CHAT) == "wait"
    fake_engine.faults.clear()
    assert (await circuits("reset", "host")).exit_code == 0
    await eventually_async(lambda: state_of(client, later, CHAT) == "completed")

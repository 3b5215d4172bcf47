"""Scripted faults, the log, and both over HTTP."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import httpx
import orjson
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from worker_core.testing.fake_engine import FaultAction, FaultMoment, RequestOutcome, ScriptedFault

if TYPE_CHECKING:
    from worker_core.testing.fake_engine import FakeEngine

CHAT = {"model": "llama3", "messages": [{"role": "user", "content": "one two three four"}]}
chat_fault = partial(ScriptedFault, path="/api/chat")


async def read_lines(client: httpx.AsyncClient) -> tuple[list[Any], type[Exception] | None]:
    """Return the lines that came, and what ended them."""
    got: list[Any] = []
    try:
        async with client.stream("POST", "/api/chat", json=CHAT) as response:
            async for line in response.aiter_lines():
                got.append(orjson.loads(line) if line.endswith("}") else line)  # noqa: PERF401  # kept when it raises
    except httpx.HTTPError as error:
        return got, type(error)
    return got, None


@pytest.mark.parametrize(
    ("action", "count", "ending"),
    [
        (FaultAction.CUT, 2, None),
        (FaultAction.ERROR_LINE, 3, None),
        (FaultAction.GARBAGE, 6, None),
        (FaultAction.ABORT, 3, httpx.RemoteProtocolError),
        (FaultAction.NOT_DONE, 5, None),
    ],
)
async def test_faults_within_an_answer(
    engine: FakeEngine,
    client: httpx.AsyncClient,
    action: FaultAction,
    count: int,
    ending: type[Exception] | None,
) -> None:
    engine.script(chat_fault(action=action, after_chunks=2))
    got, ended_by = await read_lines(client)
    if action is FaultAction.ABORT:
        count -= 1  # half a line is not handed out by every client
        got = got[:count]
    assert len(got) == count
    assert ended_by is ending
    assert not any(isinstance(line, dict) and line.get("done") for line in got[:-1])
    await engine.log.wait_until(lambda log: log.in_flight == 0)
    assert engine.log.requests[-1].outcome is RequestOutcome.FAULT
    # Once only: the next request is answered.
    got, ended_by = await read_lines(client)
    assert (got[-1]["done"], ended_by) == (True, None)


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (FaultAction.CLOSE, httpx.RemoteProtocolError),
        (FaultAction.RESET, httpx.ReadError),
    ],
)
async def test_faults_before_any_header(
    engine: FakeEngine,
    client: httpx.AsyncClient,
    action: FaultAction,
    error: type[Exception],
) -> None:
    engine.script(chat_fault(action=action))
    with pytest.raises(error):
        await client.post("/api/chat", json=CHAT)
    assert engine.log.requests[-1].outcome is RequestOutcome.FAULT


@pytest.mark.parametrize("after_chunks", [0, 2])
async def test_a_hang_lasts_until_the_client_goes(
    engine: FakeEngine, client: httpx.AsyncClient, after_chunks: int
) -> None:
    engine.script(chat_fault(action=FaultAction.HANG, after_chunks=after_chunks))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_lines, client)
        await engine.log.wait_until(lambda log: any(entry.fault for entry in log.requests))
        await engine.log.wait_until(lambda log: log.requests[-1].chunks == after_chunks)
        tasks.cancel_scope.cancel()
    await engine.log.wait_until(lambda log: log.in_flight == 0)
    entry = engine.log.requests[-1]
    assert entry.disconnected
    assert entry.outcome is RequestOutcome.DISCONNECTED
    assert entry.chunks == after_chunks


async def test_conditions_skip_and_count(engine: FakeEngine, client: httpx.AsyncClient) -> None:
    engine.script(
        chat_fault(action=FaultAction.STATUS, status=503, contains="three", skip=1, count=2),
        ScriptedFault(action=FaultAction.STATUS, status=500, model="Llama3.2:1B", count=None),
    )
    statuses = [(await client.post("/api/chat", json=CHAT)).status_code for _ in range(4)]
    assert statuses == [200, 503, 503, 200]
    other = {"model": "llama3.2:1b", "messages": []}
    assert {(await client.post("/api/chat", json=other)).status_code for _ in range(2)} == {500}


async def test_a_load_can_fail(engine: FakeEngine, client: httpx.AsyncClient) -> None:
    error = "model requires more system memory (8 GiB) than is available (1 GiB)"
    engine.script(ScriptedFault(action=FaultAction.STATUS, moment=FaultMoment.LOAD, error=error))
    failed = await client.post("/api/chat", json=CHAT)
    assert (failed.status_code, failed.json()) == (500, {"error": error})
    assert (await client.post("/api/chat", json=CHAT)).status_code == 200


async def test_faults_on_embeddings(engine: FakeEngine, client: httpx.AsyncClient) -> None:
    body = {"model": "nomic-embed-text", "input": ["fine", "poison", "fine too"]}
    engine.script(ScriptedFault(action=FaultAction.STATUS, contains="poison", count=None))
    assert (await client.post("/api/embed", json=body)).status_code == 500
    assert (await client.post("/api/embed", json={**body, "input": "fine"})).status_code == 200
    engine.faults.clear()
    engine.script(ScriptedFault(action=FaultAction.CUT, after_chunks=2))
    assert len((await client.post("/api/embed", json=body)).json()["embeddings"]) == 2


async def test_the_control_calls(engine: FakeEngine, client: httpx.AsyncClient) -> None:
    wrong = await client.post("/_fake/script", json={"action": "explode"})
    assert wrong.status_code == 400
    fault = {"action": "status", "status": 503, "path": "/api/chat", "count": 1}
    assert (await client.post("/_fake/script", json=[fault])).status_code == 200
    assert (await client.post("/api/chat", json=CHAT)).status_code == 503
    changed = await client.post("/_fake/behaviour", json={"tokens": 2})
    assert changed.json()["tokens"] == 2
    assert (await client.post("/api/chat", json=CHAT)).status_code == 200
    seen = (await client.get("/_fake/log?since=1")).json()
    assert seen["counts"]["total"] == 2
    (entry,) = seen["requests"]
    assert (entry["path"], entry["model"], entry["outcome"]) == ("/api/chat", "llama3", "answered")
    state = (await client.get("/_fake/state")).json()
    assert state["loaded"] == ["llama3:latest"]
    await client.post("/_fake/reset")
    assert engine.log.total == 0
    assert engine.behaviour.tokens is None


async def test_as_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "worker_core.testing.fake_engine", "--model", "m"]
    with anyio.fail_after(20):
        async with await anyio.open_process([*command, "--tokens", "3"]) as process:
            assert process.stdout is not None
            output = BufferedByteReceiveStream(process.stdout)
            url = (await output.receive_until(b"\n", 200)).decode()
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                body = {**CHAT, "model": "m", "stream": False}
                answer = (await client.post("/api/chat", json=body)).json()
                assert answer["message"]["content"] == "one two three"
            process.terminate()
            assert await process.wait() == 0


async def test_behaviour_refuses_what_cannot_be(engine: FakeEngine) -> None:
    with pytest.raises(ValueError, match="parallel"):
        attrs.evolve(engine.behaviour, parallel=0)

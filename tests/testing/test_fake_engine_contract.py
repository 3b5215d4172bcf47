"""The fake engine keeps Ollama's wire contract, as far as a client can see it."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import orjson
import pytest

from worker_core.testing.fake_engine import FakeModel

if TYPE_CHECKING:
    import httpx

    from worker_core.testing.fake_engine import FakeEngine, RequestLog

HELLO = [{"role": "user", "content": "hello big world"}]


def has_seen(count: int, log: RequestLog) -> bool:
    return log.total == count


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [orjson.loads(line) for line in response.content.splitlines()]


async def test_root_says_that_it_runs(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).text == "Ollama is running"
    head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")


async def test_chat_streams_by_default_and_ends_with_the_counts(client: httpx.AsyncClient) -> None:
    *body, last = lines(await client.post("/api/chat", json={"model": "llama3", "messages": HELLO}))
    assert [line["message"]["content"] for line in body] == ["hello", " big", " world"]
    assert not any(line["done"] for line in body)
    assert last["done"] is True
    assert last["done_reason"] == "stop"
    assert (last["prompt_eval_count"], last["eval_count"]) == (3, 3)
    assert last["total_duration"] >= last["eval_duration"] > 0


async def test_without_streaming_the_answer_is_one_object(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/api/chat", json={"model": "llama3:latest", "messages": HELLO, "stream": False}
    )
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    answer = response.json()
    assert answer["model"] == "llama3:latest"
    assert answer["message"] == {"role": "assistant", "content": "hello big world"}


async def test_generate_answers_in_response(client: httpx.AsyncClient) -> None:
    whole = await client.post(
        "/api/generate", json={"model": "llama3", "prompt": "one two", "stream": False}
    )
    assert whole.json()["response"] == "one two"
    streamed = await client.post("/api/generate", json={"model": "llama3", "prompt": "one two"})
    assert [line["response"] for line in lines(streamed)] == ["one", " two", ""]


async def test_num_predict_cuts_the_answer(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/api/chat",
        json={"model": "llama3", "messages": HELLO, "stream": False, "options": {"num_predict": 2}},
    )
    assert answer.json()["message"]["content"] == "hello big"
    assert answer.json()["done_reason"] == "length"


async def test_thinking_tools_format_and_logprobs(client: httpx.AsyncClient) -> None:
    thought = await client.post(
        "/api/chat", json={"model": "qwen3", "messages": HELLO, "stream": False}
    )
    assert thought.json()["message"]["thinking"]
    tool = {"type": "function", "function": {"name": "big", "parameters": {"type": "object"}}}
    called = await client.post(
        "/api/chat", json={"model": "llama3", "messages": HELLO, "stream": False, "tools": [tool]}
    )
    (call,) = called.json()["message"]["tool_calls"]
    assert call["function"]["name"] == "big"
    assert isinstance(call["function"]["arguments"], dict)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "t": {"type": "string"}}}
    formed = await client.post(
        "/api/chat", json={"model": "llama3", "messages": HELLO, "stream": False, "format": schema}
    )
    assert orjson.loads(formed.json()["message"]["content"]) == {"n": 1, "t": "hello big world"}
    scored = await client.post(
        "/api/chat", json={"model": "llama3", "messages": HELLO, "logprobs": True}
    )
    assert lines(scored)[0]["logprobs"][0]["token"] == "hello"


async def test_embeddings_are_of_length_one_in_order_and_repeatable(
    client: httpx.AsyncClient,
) -> None:
    body = {"model": "nomic-embed-text", "input": ["a", "b"], "dimensions": 8}
    first = (await client.post("/api/embed", json=body)).json()
    assert [len(vector) for vector in first["embeddings"]] == [8, 8]
    for vector in first["embeddings"]:
        assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-6)
    swapped = (await client.post("/api/embed", json={**body, "input": ["b", "a"]})).json()
    assert swapped["embeddings"] == first["embeddings"][::-1]
    one = (await client.post("/api/embed", json={**body, "input": "a"})).json()
    assert one["embeddings"] == first["embeddings"][:1]


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/api/chat", {"model": "nope", "messages": HELLO}, 404, "model 'nope' not found"),
        ("/api/embed", {"model": "nope", "input": "a"}, 404, 'model "nope" not found, try pulling it first'),
        ("/api/chat", {"messages": HELLO}, 400, "model is required"),
        ("/api/chat", {"model": "nomic-embed-text", "messages": HELLO}, 400, '"nomic-embed-text" does not support chat'),
        ("/api/chat", {"model": "llama3", "messages": HELLO, "think": True}, 400, '"llama3" does not support thinking'),
        ("/api/chat", {"model": "llama3", "messages": HELLO, "keep_alive": "-1"}, 400, 'time: missing unit in duration "-1"'),
        ("/api/chat", {"model": "llama3", "messages": HELLO, "options": {"temperature": "hot"}}, 500, 'option "temperature" must be of type float32'),
        ("/api/chat", {"model": "llama3", "messages": HELLO, "format": "xml"}, 500, "invalid format"),
        ("/api/embed", {"model": "nomic-embed-text", "input": [1]}, 400, "invalid input type"),
        ("/api/embed", {"model": "llama3", "input": "a"}, 501, "this model does not support embeddings"),
        ("/api/embed", {"model": "tiny-embed", "input": "a b c d e", "truncate": False}, 400, "the input length exceeds the context length"),
        ("/api/chat", {"model": "llama3", "messages": HELLO, "options": {"num_ctx": 2}, "truncate": False}, 400, "exceeds the available context size"),
        ("/api/show", {"model": "nope"}, 404, "model 'nope' not found"),
    ],
)  # fmt: skip
async def test_refusals_in_ollamas_words(
    engine: FakeEngine,
    client: httpx.AsyncClient,
    path: str,
    body: dict[str, Any],
    status: int,
    error: str,
) -> None:
    tiny = FakeModel(name="tiny-embed", capabilities=("embedding",), context_length=3)
    engine.behaviour = attrs.evolve(engine.behaviour, models=(*engine.behaviour.models, tiny))
    response = await client.post(path, json=body)
    assert response.status_code == status
    assert error in response.json()["error"]


async def test_bodies_that_are_no_json(client: httpx.AsyncClient) -> None:
    assert (await client.post("/api/chat")).json() == {"error": "missing request body"}
    assert (await client.post("/api/chat", content=b"{")).status_code == 400
    assert (await client.get("/api/chat")).status_code == 405
    assert (await client.get("/nothing")).status_code == 404


async def test_preload_unload_and_ps(engine: FakeEngine, client: httpx.AsyncClient) -> None:
    loaded = await client.post("/api/chat", json={"model": "LLAMA3", "messages": []})
    assert lines(loaded)[-1]["done_reason"] == "load"
    (shown,) = (await client.get("/api/ps")).json()["models"]
    assert shown["name"] == "llama3:latest"
    gone = await client.post("/api/generate", json={"model": "llama3", "keep_alive": 0})
    assert gone.json()["done_reason"] == "unload"
    assert (await client.get("/api/ps")).json() == {"models": []}
    assert (engine.log.loads, engine.log.unloads) == (1, 1)


async def test_other_runner_options_reload(engine: FakeEngine, client: httpx.AsyncClient) -> None:
    for options in ({}, {"temperature": 1}, {"num_ctx": 4096}, {"num_ctx": 4096}, {"num_gpu": 1}):
        body = {"model": "llama3", "messages": HELLO, "options": options}
        assert (await client.post("/api/chat", json=body)).status_code == 200
    assert (engine.log.loads, engine.log.reloads) == (3, 2)


async def test_a_client_that_goes_aborts_the_load(
    engine: FakeEngine, client: httpx.AsyncClient
) -> None:
    engine.behaviour = attrs.evolve(engine.behaviour, load_seconds=60.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: client.post("/api/chat", json={"model": "llama3", "messages": []}))
        await engine.log.wait_until(lambda _: engine.loading is not None)
        tasks.cancel_scope.cancel()
    await engine.log.wait_until(lambda log: log.in_flight == 0)
    assert engine.log.loads_aborted == 1
    assert engine.loaded == ()
    assert engine.log.requests[-1].disconnected


async def test_requests_for_one_model_queue_in_order(
    engine: FakeEngine, client: httpx.AsyncClient
) -> None:
    engine.behaviour = attrs.evolve(engine.behaviour, prefill_seconds=0.02)
    answers: list[str] = []

    async def ask(word: str) -> None:
        body = {"model": "llama3", "messages": [{"role": "user", "content": word}], "stream": False}
        answers.append((await client.post("/api/chat", json=body)).json()["message"]["content"])

    async with anyio.create_task_group() as tasks:
        for number, word in enumerate("abc", start=1):
            tasks.start_soon(ask, word)
            await engine.log.wait_until(partial(has_seen, number))
    assert answers == ["a", "b", "c"]
    assert engine.log.peak_in_flight == 3


async def test_more_than_the_server_takes_is_a_503(
    engine: FakeEngine, client: httpx.AsyncClient
) -> None:
    engine.behaviour = attrs.evolve(engine.behaviour, load_seconds=60.0, max_queue=1)
    body = {"model": "llama3", "messages": HELLO}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: client.post("/api/chat", json=body))
        await engine.log.wait_until(lambda _: engine.loading is not None)
        refused = await client.post("/api/chat", json=body)
        tasks.cancel_scope.cancel()
    assert refused.status_code == 503
    assert refused.json()["error"].startswith("server busy, please try again.  maximum pending")
    assert "retry-after" not in refused.headers


async def test_pull_and_delete(engine: FakeEngine, client: httpx.AsyncClient) -> None:
    engine.behaviour = attrs.evolve(engine.behaviour, pullable=("phi3",))
    statuses = lines(await client.post("/api/pull", json={"model": "phi3"}))
    assert statuses[0] == {"status": "pulling manifest"}
    assert statuses[-1] == {"status": "success"}
    assert {"digest", "total", "completed"} <= statuses[1].keys()
    unknown = await client.post("/api/pull", json={"model": "nope"})
    assert unknown.status_code == 200
    assert "error" in lines(unknown)[-1]
    await client.post("/api/generate", json={"model": "phi3"})
    gone = await client.request("DELETE", "/api/delete", json={"model": "phi3"})
    assert (gone.status_code, gone.content) == (200, b"")
    names = [model["name"] for model in (await client.get("/api/tags")).json()["models"]]
    assert "phi3:latest" not in names
    assert engine.loaded == ("phi3:latest",)


async def test_a_key_is_wanted_when_there_is_one(
    engine: FakeEngine, client: httpx.AsyncClient
) -> None:
    engine.behaviour = attrs.evolve(engine.behaviour, api_key="sesame")
    refused = await client.get("/api/version")
    assert refused.status_code == 401
    assert refused.json()["error"] == "unauthorized"
    allowed = await client.get("/api/version", headers={"Authorization": "Bearer sesame"})
    assert allowed.status_code == 200

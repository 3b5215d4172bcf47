"""`worker-core batch` with a worker: from a file of requests to a file of answers."""

from __future__ import annotations

import json
import sys

import anyio
import pytest

COMMAND = [sys.executable, "-m", "worker_core", "batch"]


def settings(engine, *plugins):
    return {
        "worker": {"plugins": [*plugins, "batch"], "engine": "ollama"},
        "plugins": {"ollama": {"base_url": engine.url}},
    }


def chat(custom_id, model="llama3"):
    body = {"model": model, "messages": [{"role": "user", "content": custom_id}]}
    return written(custom_id, "/v1/chat/completions", body)


def embeddings(custom_id, texts):
    body = {"model": "nomic-embed-text", "input": texts, "encoding_format": "base64"}
    return written(custom_id, "/v1/embeddings", body)


def written(custom_id, url, body):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


@pytest.fixture
def batch(valkey, tmp_path):
    async def run(*arguments):
        return await anyio.run_process(
            [*COMMAND, *arguments, "--redis-url", valkey.url], check=False, cwd=tmp_path
        )

    return run


@pytest.fixture
def file(tmp_path):
    def write(*lines):
        (tmp_path / "in.jsonl").write_text("\n".join(lines))
        return "in.jsonl"

    return write


def lines_of(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


async def test_chats_from_file_to_file(start_worker, fake_engine, batch, file, tmp_path):
    await start_worker(settings(fake_engine, "chat"))
    # So many that they do not stand in the job's own data.
    names = [f"r{number}" for number in range(600)]
    ran = await batch("submit", file(*map(chat, names), chat("bad", "nope")), "--wait", "--json")
    assert ran.returncode == 0, ran.stderr
    whole = json.loads(ran.stdout)
    assert whole["status"] == "completed"
    assert whole["request_counts"] == {"total": 601, "completed": 600, "failed": 1}
    assert whole["usage"]["total_tokens"] == 1200

    ran = await batch("fetch", whole["id"])
    assert ran.returncode == 0, ran.stderr
    answered = lines_of(tmp_path / whole["output_file_id"])
    assert [one["custom_id"] for one in answered] == names
    for one in answered:
        [choice] = one["response"]["body"]["choices"]
        assert choice["message"]["content"] == one["custom_id"]
    [failed] = lines_of(tmp_path / whole["error_file_id"])
    assert failed["custom_id"] == "bad"
    assert failed["response"]["status_code"] == 404


async def test_embeddings_from_file_to_file(start_worker, fake_engine, batch, file, tmp_path):
    await start_worker(settings(fake_engine, "embeddings"))
    ran = await batch("submit", file(embeddings("a", "x"), embeddings("b", ["y", "z"])), "--wait")
    assert ran.returncode == 0, ran.stderr
    ran = await batch("fetch", ran.stdout.decode().strip(), "--output", "out")
    assert ran.returncode == 0, ran.stderr
    first, second = lines_of(tmp_path / "out")
    assert (first["custom_id"], second["custom_id"]) == ("a", "b")
    data = second["response"]["body"]["data"]
    assert [entry["index"] for entry in data] == [0, 1]
    assert all(isinstance(entry["embedding"], str) for entry in data)


async def test_a_worker_that_lacks_the_job_type_fails_the_batch(
    start_worker, fake_engine, batch, file
):
    await start_worker(settings(fake_engine, "chat"))
    ran = await batch("submit", file(embeddings("a", "x")), "--wait")
    assert ran.returncode == 1
    batch_id = ran.stdout.decode().strip()
    assert f"error: {batch_id} ended as failed: ".encode() in ran.stderr
    assert b"'embeddings'" in ran.stderr
    whole = json.loads((await batch("status", batch_id, "--json")).stdout)
    assert "'embeddings'" in whole["errors"]["data"][0]["message"]
    ran = await batch("fetch", batch_id, "--errors", "-")
    assert json.loads(ran.stdout)["error"]["code"] == "batch_failed"


async def test_a_batch_whose_window_ends_is_expired(start_worker, fake_engine, batch, file):
    ran = await batch("submit", file(chat("a")), "--completion-window", "1ms")
    batch_id = ran.stdout.decode().strip()
    await start_worker(settings(fake_engine, "chat"))
    with anyio.fail_after(20):
        while True:
            whole = json.loads((await batch("status", batch_id, "--json")).stdout)
            if whole["status"] == "expired":
                break
    assert whole["expired_at"] is not None
    assert whole["completion_window"] == "1ms"
    ran = await batch("fetch", batch_id, "--errors", "-")
    assert json.loads(ran.stdout)["error"]["code"] == "batch_expired"

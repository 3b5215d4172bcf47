"""Taking the time: the same question to the engine itself, and through a queue and a stream."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import httpx
import orjson

from benchmarks.bench_stream.report import Pair
from worker_core.client import Client, TokenChunk, open_client
from worker_core.embedded import EmbeddedValkey
from worker_core.testing.processes import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["measure"]

_WARM_UP = 20
_PAUSE_SECONDS = (0.02, 0.06)
_ANSWER_SECONDS = 30.0
_QUESTION = {
    "model": "llama3",
    "messages": [{"role": "user", "content": "one two three four five six seven eight"}],
    "stream": True,
}


async def measure(pairs: int, tell: Callable[[int, Pair], None]) -> list[Pair]:
    """Ask so many times both ways, in turns; `tell` hears of each pair."""
    with EmbeddedValkey() as server, _fake_engine() as engine, _worker(server.url, engine):
        async with (
            open_client(server.url) as client,
            httpx.AsyncClient(base_url=engine, trust_env=False) as http,
        ):
            found = []
            for number in range(-_WARM_UP, pairs):
                pair = await _pair(client, http, engine_first=number % 2 == 0)
                if number >= 0:
                    found.append(pair)
                    tell(number + 1, pair)
    return found


async def _pair(client: Client, http: httpx.AsyncClient, *, engine_first: bool) -> Pair:
    """Ask both; who goes first goes last in the next pair."""
    if engine_first:
        direct = await _ask_engine(http)
        return Pair(direct_ms=direct, streamed_ms=await _ask_queue(client))
    streamed = await _ask_queue(client)
    return Pair(direct_ms=await _ask_engine(http), streamed_ms=streamed)


async def _ask_engine(http: httpx.AsyncClient) -> float:
    await anyio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311  # jitter, no secret
    first_at = 0.0
    began = time.perf_counter()
    with anyio.fail_after(_ANSWER_SECONDS):
        async with http.stream("POST", "/api/chat", json=_QUESTION) as response:
            async for line in response.aiter_lines():
                if not first_at and orjson.loads(line)["message"]["content"]:
                    first_at = time.perf_counter()
    return (first_at - began) * 1000


async def _ask_queue(client: Client) -> float:
    await anyio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311  # jitter, no secret
    first_at = 0.0
    began = time.perf_counter()
    with anyio.fail_after(_ANSWER_SECONDS):
        # As an application does it: the reader, with a connection of its own, comes after the job.
        job = await client.submit("chat", _QUESTION)
        async for item in client.tokens(job):
            if not first_at and isinstance(item, TokenChunk) and item.content:
                first_at = time.perf_counter()
    return (first_at - began) * 1000


@contextmanager
def _fake_engine() -> Iterator[str]:
    """Run the fake engine as a process and yield its URL."""
    options = ("--loaded", "llama3", "--parallel", "8", "--token-seconds", "0.005")
    command = [sys.executable, "-m", "worker_core.testing.fake_engine", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _worker(redis_url: str, engine: str) -> Iterator[None]:
    """Run a worker with its defaults."""
    worker = WorkerProcess(
        ["--plugins", "chat"], environment={"REDIS_URL": redis_url, "OLLAMA_BASE_URL": engine}
    )
    try:
        worker.wait_ready()
        yield
    finally:
        worker.process.terminate()
        worker.wait()

"""One measurement: a backlog of jobs of one text each, from its release to its last vector."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
import httpx

from benchmarks.bench_embeddings.ways import MODELS, Engine, Way, fake_engine, running
from benchmarks.bench_queue.backlog import Backlog
from benchmarks.bench_queue.peers import QUEUE, PeerFailed
from worker_core._bullmq.keys import QueueKeys
from worker_core.embedded import EmbeddedValkey

if TYPE_CHECKING:
    from benchmarks.bench_queue.peers import WorkerUnderTest

__all__ = ["Measured", "measure"]

_TEXT = "The quick brown fox jumps over the lazy dog, and is asked for a vector of it."
_WITHIN_SECONDS = 300.0
_WARM_UP_JOBS = {Engine.FAKE: 200, Engine.LLAMACPP: 20}
_POLL_SECONDS = 0.02


@attrs.frozen
class Measured:
    """What came out of a backlog."""

    embeddings_per_second: float
    inputs_a_call: float | None
    """Of the fake engine, which counts its calls."""


def measure(way: Way, engine: Engine, *, jobs: int) -> Measured:
    """Run a backlog once, on fresh servers; raises `PeerFailed`."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedValkey())
        backlog = Backlog(server.url, server.pid)
        stack.callback(backlog.close)
        url = stack.enter_context(fake_engine()) if engine is Engine.FAKE else ""
        worker = stack.enter_context(running(way, engine, redis_url=server.url, engine_url=url))
        backlog.wait_idle(worker)
        _check_that_it_can(backlog, worker, engine)
        _run(backlog, worker, engine, _WARM_UP_JOBS[engine])
        before = _calls(url)
        seconds = _run(backlog, worker, engine, jobs)
        calls = _calls(url) - before
    return Measured(jobs / seconds, jobs / calls if calls else None)


def _run(backlog: Backlog, worker: WorkerUnderTest, engine: Engine, jobs: int) -> float:
    """Let the worker do so many jobs; return the seconds that it took."""
    backlog.put_aside(jobs, model=MODELS[engine], input=_TEXT)
    backlog.wait_idle(worker)
    began = time.monotonic()
    backlog.release()
    backlog.wait_done(worker, within=_WITHIN_SECONDS)
    return time.monotonic() - began


def _check_that_it_can(backlog: Backlog, worker: WorkerUnderTest, engine: Engine) -> None:
    """Run one job; its model is loaded then, or will never be."""
    key = QueueKeys("bull", QUEUE).job(backlog.add(model=MODELS[engine], input=_TEXT))
    deadline = time.monotonic() + _WITHIN_SECONDS
    while (returned := backlog.client.hget(key, "returnvalue")) is None:
        if (reason := backlog.client.hget(key, "failedReason")) is not None:
            raise PeerFailed(f"{worker.peer.title} gave no vector: {reason.decode()}")
        if time.monotonic() > deadline:
            raise PeerFailed(f"{worker.peer.title} gave no vector:\n{worker.log_tail}")
        worker.check()
        time.sleep(_POLL_SECONDS)
    answer = json.loads(returned)
    if not (answer.get("answer") or answer)["embeddings"][0]:
        raise PeerFailed(f"{worker.peer.title} returned what holds no vector")


def _calls(engine_url: str) -> int:
    """How many calls the fake engine has seen; 0 of one that does not count."""
    if not engine_url:
        return 0
    answer = httpx.get(f"{engine_url}/_fake/state", trust_env=False).raise_for_status()
    return int(answer.json()["counts"]["total"])

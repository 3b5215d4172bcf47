"""The queue as its producer and its observer see it: putting jobs, releasing them, counting ends.

Jobs are put aside first and released all at once, so that nobody produces while a clock runs. An
idle worker is one that blocks on the queue's marker: seen on the server, alike for every peer.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import attrs
import msgpack
import redis

from benchmarks.bench_queue.peers import QUEUE, PeerFailed
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.scripts import load_script

if TYPE_CHECKING:
    from benchmarks.bench_queue.peers import WorkerUnderTest

__all__ = ["Backlog"]

_KEYS = QueueKeys("bull", QUEUE)
_ASIDE = {_KEYS.wait: f"{_KEYS.base}aside", _KEYS.marker: f"{_KEYS.base}aside-marker"}
_PIPELINE_JOBS = 1000
_POLL_SECONDS = 0.02
"""At 20 ms a round of some seconds is wrong by less than one in a hundred, for everyone alike."""
_START_SECONDS = 30.0
_BASE_MARKER = {"0": 0}
"""What BullMQ adds to the marker to wake a worker that blocks on it."""


class Backlog:
    """The jobs of one queue on one server."""

    def __init__(self, url: str, server_pid: int) -> None:
        self.url = url
        self.server_pid = server_pid
        self.client = redis.Redis.from_url(url, protocol=2)
        self._script = self.client.script_load(load_script("addStandardJob").source.decode())
        self._put = 0

    def put_aside(self, count: int, **data: object) -> None:
        """Add jobs where no worker sees them."""
        call = _adding(data)
        keys = [_ASIDE.get(key, key) for key in call.keys]
        for begin in range(0, count, _PIPELINE_JOBS):
            pipeline = self.client.pipeline(transaction=False)
            for _ in range(min(_PIPELINE_JOBS, count - begin)):
                pipeline.evalsha(self._script, len(keys), *keys, *call.args)
            pipeline.execute()
        self._put += count

    def release(self) -> None:
        """Let the worker see at once what was put aside."""
        pipeline = self.client.pipeline()
        pipeline.rename(_ASIDE[_KEYS.wait], _KEYS.wait)
        pipeline.zadd(_KEYS.marker, _BASE_MARKER)
        pipeline.execute()

    def add(self, **data: object) -> str:
        """Add one job for the worker to see; return its id."""
        call = _adding(data)
        reply = self.client.evalsha(self._script, len(call.keys), *call.keys, *call.args)
        self._put += 1
        return str(reply.decode())

    def return_value(self, job_id: str) -> object:
        """What a job that has ended returned."""
        raw = self.client.hget(_KEYS.job(job_id), "returnvalue")
        return None if raw is None else json.loads(raw)

    def completed(self) -> int:
        """How many jobs have completed."""
        return int(self.client.zcard(_KEYS.completed))

    def wait_done(self, worker: WorkerUnderTest, *, within: float) -> None:
        """Wait until every job that was put has completed; raises `PeerFailed`."""
        deadline = time.monotonic() + within
        while (done := self.completed()) < self._put:
            worker.check()
            if time.monotonic() > deadline:
                failed = self.client.zcard(_KEYS.failed)
                raise PeerFailed(
                    f"{worker.peer.title} completed {done} of {self._put} jobs in {within:g} s, "
                    f"{failed} failed:\n{worker.log_tail}"
                )
            time.sleep(_POLL_SECONDS)

    def wait_idle(self, worker: WorkerUnderTest) -> None:
        """Wait until the worker blocks on its marker: it is ready, and has nothing to do."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.client.info("clients")["blocked_clients"]:
            worker.check()
            if time.monotonic() > deadline:
                raise PeerFailed(f"{worker.peer.title} did not get ready:\n{worker.log_tail}")
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


@attrs.frozen
class _Call:
    """A call of the script by which a Node application adds a job."""

    keys: tuple[str, ...]
    args: tuple[bytes, ...]


def _adding(data: object) -> _Call:
    made_ms = time.time_ns() // 1_000_000
    arguments = [_KEYS.base, "", QUEUE, made_ms, None, None, None, None, None]
    keys = (
        *(_KEYS.wait, _KEYS.paused, _KEYS.meta, _KEYS.id, _KEYS.completed, _KEYS.delayed),
        *(_KEYS.active, _KEYS.events, _KEYS.marker),
    )
    # What Queue.add stores where an application gives no options.
    options = {"attempts": 0}
    return _Call(
        keys, (msgpack.packb(arguments), json.dumps(data).encode(), msgpack.packb(options))
    )

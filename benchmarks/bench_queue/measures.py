"""The four measurements, each of one peer in one round, on a server of its own."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from statistics import quantiles
from typing import TYPE_CHECKING

import attrs

from benchmarks.bench_queue.backlog import Backlog
from benchmarks.bench_queue.commands import counting
from benchmarks.bench_queue.cpu import CpuUse
from benchmarks.bench_queue.peers import Peer, PeerFailed, running
from benchmarks.bench_queue.samples import Figure
from benchmarks.bench_queue.scripts import ScriptUse
from worker_core.embedded import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.bench_queue.peers import WorkerUnderTest

__all__ = ["AT_REST", "Idle", "Memory", "Pickup", "Throughput"]

_MEGABYTE = 1_000_000
_WITHIN_SECONDS = 180.0
_REST_SECONDS = 2.0
AT_REST = 0
"""The case of `Memory` in which no job waits."""


@contextmanager
def _set_up(peer: Peer, slots: int) -> Iterator[tuple[WorkerUnderTest, Backlog]]:
    """Start a fresh server and a worker that is ready."""
    with EmbeddedValkey() as server:
        backlog = Backlog(server.url, server.pid)
        try:
            with running(peer, slots=slots, url=server.url) as worker:
                backlog.wait_idle(worker)
                yield worker, backlog
        finally:
            backlog.close()


def _warm_up(worker: WorkerUnderTest, backlog: Backlog, jobs: int) -> None:
    backlog.put_aside(jobs)
    backlog.release()
    backlog.wait_done(worker, within=_WITHIN_SECONDS)


@attrs.frozen
class Throughput:
    """A backlog of no-ops, from its release to the end of the last job."""

    slots: int
    jobs: int
    warm_up: int

    @property
    def case(self) -> int:
        """What the figures depend on."""
        return self.slots

    def measure(self, peer: Peer) -> Mapping[Figure, float]:
        """Run the backlog once."""
        with _set_up(peer, self.slots) as (worker, backlog):
            with counting(backlog.client, backlog.url) as counted:
                _warm_up(worker, backlog, self.warm_up)
            backlog.put_aside(self.jobs)
            backlog.wait_idle(worker)
            scripts, used = ScriptUse.of(backlog.client), CpuUse.of(worker, backlog.server_pid)
            backlog.release()
            backlog.wait_done(worker, within=_WITHIN_SECONDS)
            used = CpuUse.of(worker, backlog.server_pid).since(used)
            scripts = ScriptUse.of(backlog.client).since(scripts)
        return {
            Figure.JOBS_PER_SECOND: self.jobs / used.time,
            Figure.CPU_US: used.worker / self.jobs * 1e6,
            Figure.COMMANDS: counted.commands / self.warm_up,
            Figure.LUA_US: scripts.seconds / self.jobs * 1e6,
            Figure.SERVER_CPU_US: used.server / self.jobs * 1e6,
            Figure.OTHERS_CPU: used.others_percent,
        }


@attrs.frozen
class Pickup:
    """Jobs one at a time for an idle worker: from before the call that adds one to its begin."""

    slots: int
    jobs: int
    warm_up: int

    @property
    def case(self) -> int:
        """What the figures depend on."""
        return self.slots

    def measure(self, peer: Peer) -> Mapping[Figure, float]:
        """Add the jobs at random gaps."""
        # The same gaps for every peer.
        chance = random.Random(self.jobs)  # noqa: S311  # no secret
        with _set_up(peer, self.slots) as (worker, backlog):
            _warm_up(worker, backlog, self.warm_up)
            added: dict[str, int] = {}
            for _ in range(self.jobs):
                time.sleep(chance.uniform(0.02, 0.06))
                now = time.monotonic_ns()
                added[backlog.add(tell_begin=True)] = now
            backlog.wait_done(worker, within=_WITHIN_SECONDS)
            waits = [_began(peer, backlog, job_id) - at for job_id, at in added.items()]
        cuts = quantiles(waits, n=100)
        return {Figure.PICKUP_P50_MS: cuts[49] / 1e6, Figure.PICKUP_P99_MS: cuts[98] / 1e6}


def _began(peer: Peer, backlog: Backlog, job_id: str) -> int:
    returned = backlog.return_value(job_id)
    if peer is Peer.OURS and isinstance(returned, dict):
        returned = returned["answer"]
    if not isinstance(returned, int):
        raise PeerFailed(f"{peer.title} did not tell when job {job_id} began: {returned!r}")
    return returned


@attrs.frozen
class Memory:
    """Resident memory at rest, or the most while so many jobs wait one second each."""

    slots: int
    waiting: int

    @property
    def case(self) -> int:
        """What the figures depend on."""
        return self.waiting

    def measure(self, peer: Peer) -> Mapping[Figure, float]:
        """Look once at rest, or until the last of the jobs has ended."""
        with _set_up(peer, self.slots) as (worker, backlog):
            if self.waiting == AT_REST:
                time.sleep(_REST_SECONDS)
                rss, uss = worker.memory_bytes()
            else:
                backlog.put_aside(self.waiting, wait_ms=1000)
                backlog.release()
                rss, uss = _most(worker, backlog, self.waiting)
        return {Figure.RSS_MB: rss / _MEGABYTE, Figure.USS_MB: uss / _MEGABYTE}


def _most(worker: WorkerUnderTest, backlog: Backlog, jobs: int) -> tuple[int, int]:
    seen = [worker.memory_bytes()]
    deadline = time.monotonic() + _WITHIN_SECONDS
    while backlog.completed() < jobs:
        if time.monotonic() > deadline:
            raise PeerFailed(f"{worker.peer.title} did not end {jobs} jobs:\n{worker.log_tail}")
        worker.check()
        time.sleep(0.05)
        seen.append(worker.memory_bytes())
    return max(rss for rss, _ in seen), max(uss for _, uss in seen)


@attrs.frozen
class Idle:
    """A worker with nothing to do."""

    slots: int
    seconds: float

    @property
    def case(self) -> int:
        """What the figures depend on."""
        return self.slots

    def measure(self, peer: Peer) -> Mapping[Figure, float]:
        """Leave it alone for a while."""
        with _set_up(peer, self.slots) as (worker, backlog):
            # What a start still has to do is not what idling costs.
            time.sleep(_REST_SECONDS)
            scripts, used = ScriptUse.of(backlog.client), CpuUse.of(worker, backlog.server_pid)
            time.sleep(self.seconds)
            used = CpuUse.of(worker, backlog.server_pid).since(used)
            scripts = ScriptUse.of(backlog.client).since(scripts)
        return {
            Figure.IDLE_SCRIPTS: scripts.calls / used.time,
            Figure.IDLE_CPU: used.worker / used.time * 100,
        }

"""Who uses the machine's CPU."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Self

import attrs
import psutil

if TYPE_CHECKING:
    from benchmarks.bench_queue.peers import WorkerUnderTest

__all__ = ["CpuUse"]


@attrs.frozen
class CpuUse:
    """Seconds: of time, and of CPU, all from some beginning."""

    time: float
    worker: float
    server: float
    observer: float
    machine: float
    """All cores together, and what other guests of the same host took from them."""

    @classmethod
    def of(cls, worker: WorkerUnderTest, server_pid: int) -> Self:
        """Read them."""
        every = psutil.cpu_times()
        return cls(
            time=time.monotonic(),
            worker=worker.cpu_seconds(),
            server=_used_by(server_pid),
            observer=_used_by(os.getpid()),
            machine=sum(every) - every.idle - getattr(every, "iowait", 0.0),
        )

    def since(self, earlier: CpuUse) -> CpuUse:
        """Return what was used in between."""
        now, then = attrs.astuple(self), attrs.astuple(earlier)
        return CpuUse(*(a - b for a, b in zip(now, then, strict=True)))

    @property
    def others_percent(self) -> float:
        """How much of one core went to programs that have no part in this."""
        others = self.machine - self.worker - self.server - self.observer
        return max(0.0, others / self.time * 100)


def _used_by(pid: int) -> float:
    return sum(psutil.Process(pid).cpu_times()[:2])

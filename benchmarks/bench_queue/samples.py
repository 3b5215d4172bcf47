"""What was measured, and how it is compared: medians, and ratios round by round. Pure."""

from __future__ import annotations

import enum
from statistics import median
from typing import TYPE_CHECKING

import attrs

from benchmarks.bench_queue.peers import Peer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Figure", "Sample", "Samples", "Spread"]


class Figure(enum.Enum):
    """What is measured; the value is what stands at the head of a table."""

    JOBS_PER_SECOND = "jobs/s"
    CPU_US = "CPU µs a job"
    COMMANDS = "commands a job"
    LUA_US = "server Lua µs a job"
    SERVER_CPU_US = "server CPU µs a job"
    OTHERS_CPU = "CPU % of other programs"
    PICKUP_P50_MS = "pick-up p50 ms"
    PICKUP_P99_MS = "pick-up p99 ms"
    RSS_MB = "RSS MB"
    USS_MB = "USS MB"
    IDLE_SCRIPTS = "EVALSHA a second"
    IDLE_CPU = "CPU %"


@attrs.frozen
class Sample:
    """One value of one figure."""

    figure: Figure
    peer: Peer
    case: int
    """What the figure depends on: slots, or for memory the jobs that wait."""
    round: int
    value: float


@attrs.frozen
class Spread:
    """A median, and how far the rounds lie apart."""

    median: float
    low: float
    high: float


@attrs.frozen
class Samples:
    """All samples of a run."""

    all: Sequence[Sample] = ()

    def values(self, figure: Figure, peer: Peer, case: int) -> dict[int, float]:
        """Return the values by round."""
        return {
            sample.round: sample.value
            for sample in self.all
            if (sample.figure, sample.peer, sample.case) == (figure, peer, case)
        }

    def median(self, figure: Figure, peer: Peer, case: int) -> float | None:
        """Return the median over the rounds; `None` where nothing was measured."""
        values = self.values(figure, peer, case).values()
        return median(values) if values else None

    def ratio(self, figure: Figure, case: int, over: Peer) -> Spread | None:
        """Return our value over a peer's: the median of the ratios within each round."""
        ours, theirs = (self.values(figure, peer, case) for peer in (Peer.OURS, over))
        return _spread(ours[turn] / theirs[turn] for turn in ours.keys() & theirs.keys())

    def cases(self, figure: Figure) -> list[int]:
        """Return the cases in which a figure was measured, in order."""
        return sorted({sample.case for sample in self.all if sample.figure is figure})

    def peers(self) -> list[Peer]:
        """Return who was measured."""
        measured = {sample.peer for sample in self.all}
        return [peer for peer in Peer if peer in measured]


def _spread(values: Iterable[float]) -> Spread | None:
    known = sorted(values)
    return Spread(median(known), known[0], known[-1]) if known else None

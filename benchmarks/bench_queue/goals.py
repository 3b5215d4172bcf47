"""What the worker promises beside its peers, and whether a run kept it. Pure."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from benchmarks.bench_queue.peers import Peer
from benchmarks.bench_queue.samples import Figure

if TYPE_CHECKING:
    from benchmarks.bench_queue.samples import Samples

__all__ = ["GOALS", "Bound", "Goal", "Judgement", "Verdict", "judge"]


class Bound(enum.Enum):
    """On which side of its limit a value must lie."""

    AT_LEAST = "at least"
    AT_MOST = "at most"
    BELOW = "below"

    def holds(self, value: float, limit: float) -> bool:
        """Tell whether the value is on the right side."""
        match self:
            case Bound.AT_LEAST:
                return value >= limit
            case Bound.AT_MOST:
                return value <= limit
            case Bound.BELOW:
                return value < limit


class Verdict(enum.Enum):
    """How a goal came out."""

    MET = "met"
    MISSED = "MISSED"
    NOT_MEASURED = "not measured"


@attrs.frozen
class Goal:
    """A limit for our value, or for its ratio to a peer's."""

    name: str
    figure: Figure
    case: int
    over: Peer | None
    bound: Bound
    limit: float


@attrs.frozen
class Judgement:
    """A goal and what was reached."""

    goal: Goal
    reached: float | None

    @property
    def verdict(self) -> Verdict:
        """Compare what was reached with the limit, unrounded."""
        if self.reached is None:
            return Verdict.NOT_MEASURED
        kept = self.goal.bound.holds(self.reached, self.goal.limit)
        return Verdict.MET if kept else Verdict.MISSED

    def __str__(self) -> str:
        """Say it in a line."""
        goal = self.goal
        over = f" x {goal.over.title}" if goal.over else ""
        reached = "-" if self.reached is None else f"{self.reached:.2f}{over}"
        return f"{goal.name}: {reached} ({goal.bound.value} {goal.limit:g}{over}): {self.verdict.value}"


def _throughput(slots: int, over: Peer, limit: float) -> Goal:
    name = f"throughput at {slots} slot{'s' * (slots > 1)}"
    return Goal(name, Figure.JOBS_PER_SECOND, slots, over, Bound.AT_LEAST, limit)


def _at_most(name: str, figure: Figure, case: int, limit: float) -> Goal:
    return Goal(name, figure, case, Peer.NODE, Bound.AT_MOST, limit)


GOALS = (
    _throughput(1, Peer.NODE, 1.0),
    _throughput(10, Peer.NODE, 1.1),
    _throughput(50, Peer.NODE, 1.1),
    _throughput(50, Peer.PYTHON, 8.0),
    _at_most("CPU a job at 50 slots", Figure.CPU_US, 50, 0.8),
    _at_most("pick-up p50", Figure.PICKUP_P50_MS, 50, 1.1),
    _at_most("memory at rest", Figure.RSS_MB, 0, 1.0),
    _at_most("memory with 1000 jobs waiting", Figure.RSS_MB, 1000, 0.8),
    Goal("idle EVALSHA a second", Figure.IDLE_SCRIPTS, 50, None, Bound.BELOW, 1.0),
    Goal("idle CPU %", Figure.IDLE_CPU, 50, None, Bound.BELOW, 1.0),
)


def judge(samples: Samples) -> list[Judgement]:
    """Hold a run against every goal."""
    return [Judgement(goal, _reached(goal, samples)) for goal in GOALS]


def _reached(goal: Goal, samples: Samples) -> float | None:
    if goal.over is None:
        return samples.median(goal.figure, Peer.OURS, goal.case)
    spread = samples.ratio(goal.figure, goal.case, goal.over)
    return spread.median if spread else None

"""What was measured, in words: on the terminal and as a section of RESULTS.md. Pure."""

from __future__ import annotations

from statistics import median, quantiles
from typing import TYPE_CHECKING

import attrs

from benchmarks.bench_queue.goals import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GOAL_MS", "Pair", "Summary", "section", "summarise"]

GOAL_MS = 5.0
"""How much later the first token may come, at the median."""

_HEADING = "## Token streams: the first token"


@attrs.frozen(kw_only=True)
class Pair:
    """Milliseconds to the first token, asked both ways one after the other."""

    direct_ms: float
    streamed_ms: float

    @property
    def later_ms(self) -> float:
        """How much later it came through the queue."""
        return self.streamed_ms - self.direct_ms


@attrs.frozen(kw_only=True)
class Summary:
    """A run's figures: median and 99th percentile."""

    pairs: int
    direct_ms: tuple[float, float]
    streamed_ms: tuple[float, float]
    later_ms: tuple[float, float]

    @property
    def verdict(self) -> Verdict:
        """Hold the median difference, unrounded, against the goal."""
        return Verdict.MET if self.later_ms[0] <= GOAL_MS else Verdict.MISSED

    @property
    def judgement(self) -> str:
        """Say it in a line."""
        reached = f"{self.later_ms[0]:.2f} ms"
        return f"first token through queue and stream, later than from the engine: {reached} (at most {GOAL_MS:g} ms): {self.verdict.value}"


def summarise(pairs: Sequence[Pair]) -> Summary:
    """Return a run's figures."""
    return Summary(
        pairs=len(pairs),
        direct_ms=_spread([pair.direct_ms for pair in pairs]),
        streamed_ms=_spread([pair.streamed_ms for pair in pairs]),
        later_ms=_spread([pair.later_ms for pair in pairs]),
    )


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return median(values), quantiles(values, n=100, method="inclusive")[98]


def section(summary: Summary, *, day: str) -> str:
    """Return the section of RESULTS.md."""
    rows = (
        ("the engine, called directly", summary.direct_ms),
        ("through queue, worker and stream", summary.streamed_ms),
        ("later by", summary.later_ms),
    )
    table = "\n".join(f"| {name:<32} | {p50:>6.2f} | {p99:>6.2f} |" for name, (p50, p99) in rows)
    return _SECTION.format(
        heading=_HEADING,
        day=day,
        table=table,
        judgement=summary.judgement,
        pairs=summary.pairs,
    )


_SECTION = """{heading}

Written by `make bench-stream ARGS=--write` on {day}; what follows is one run.

| first token after, ms            |    p50 |    p99 |
| -------------------------------- | -----: | -----: |
{table}

- {judgement}

{pairs} pairs of the same question, 20 to 60 ms apart, asked in turns: of the engine by an HTTP client that keeps its connection, and through the queue by `client.submit` and `client.tokens`, from before the call until the first piece of the answer is there. Engine (the fake one, 5 ms a token), Valkey, worker and client are processes of one machine; all have their defaults. The difference is taken within each pair.
"""

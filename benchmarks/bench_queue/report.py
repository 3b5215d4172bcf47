"""A run as text: the same tables on the terminal and in RESULTS.md. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench_queue.peers import Peer
from benchmarks.bench_queue.samples import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.bench_queue.goals import Judgement
    from benchmarks.bench_queue.samples import Samples

__all__ = ["PICTURE", "disturbance", "markdown", "section", "tables"]

PICTURE = "queue.svg"

_DECIMALS = {
    Figure.JOBS_PER_SECOND: 0,
    Figure.CPU_US: 0,
    Figure.COMMANDS: 2,
    Figure.LUA_US: 1,
    Figure.SERVER_CPU_US: 1,
    Figure.PICKUP_P50_MS: 2,
    Figure.PICKUP_P99_MS: 2,
    Figure.RSS_MB: 1,
    Figure.USS_MB: 1,
    Figure.IDLE_SCRIPTS: 2,
    Figure.IDLE_CPU: 2,
}
_MEASURED = (
    (
        "A backlog of no-op jobs",
        "slots",
        (
            *(Figure.JOBS_PER_SECOND, Figure.CPU_US, Figure.COMMANDS),
            *(Figure.LUA_US, Figure.SERVER_CPU_US),
        ),
    ),
    ("Pick-up by an idle worker", "slots", (Figure.PICKUP_P50_MS, Figure.PICKUP_P99_MS)),
    ("Memory", "jobs waiting", (Figure.RSS_MB, Figure.USS_MB)),
    ("Idle", "slots", (Figure.IDLE_SCRIPTS, Figure.IDLE_CPU)),
)
_COMPARED = (Figure.JOBS_PER_SECOND, Figure.CPU_US, Figure.PICKUP_P50_MS, Figure.RSS_MB)
"""The figures with goals beside a peer."""


def tables(samples: Samples) -> str:
    """Return a table for each thing that was measured, as Markdown that reads well unrendered."""
    measured = [
        f"### {title}\n\n{_table(samples, case_name, figures)}"
        for title, case_name, figures in _MEASURED
        if samples.cases(figures[0])
    ]
    return "\n\n".join(measured)


def _table(samples: Samples, case_name: str, figures: Sequence[Figure]) -> str:
    compared = [figure for figure in figures if figure in _COMPARED]
    head = [
        *(case_name, "worker"),
        *(figure.value for figure in figures),
        *(f"ours / theirs, {figure.value}" for figure in compared),
    ]
    rows = [
        [
            *(str(case), peer.title),
            *(_number(samples.median(figure, peer, case), figure) for figure in figures),
            *(_ratio(samples, figure, case, peer) for figure in compared),
        ]
        for case in samples.cases(figures[0])
        for peer in samples.peers()
    ]
    return markdown(head, rows)


def _number(value: float | None, figure: Figure) -> str:
    return "" if value is None else f"{value:.{_DECIMALS[figure]}f}"


def _ratio(samples: Samples, figure: Figure, case: int, peer: Peer) -> str:
    if peer is Peer.OURS or (spread := samples.ratio(figure, case, peer)) is None:
        return ""
    return f"{spread.median:.2f} ({spread.low:.2f} - {spread.high:.2f})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns stand under each other."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * (width - 1) + ":" for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def disturbance(samples: Samples) -> float:
    """Return how much of a core other programs took, in per cent, in the worst backlog."""
    seen = (sample.value for sample in samples.all if sample.figure is Figure.OTHERS_CPU)
    return max(seen, default=0.0)


def section(
    samples: Samples, judgements: Sequence[Judgement], *, day: str, machine: Mapping[str, str]
) -> str:
    """Return the queue's section of RESULTS.md."""
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    goals = "\n".join(f"- {judgement}" for judgement in judgements)
    return _SECTION.format(
        day=day,
        facts=facts,
        picture=PICTURE,
        tables=tables(samples),
        goals=goals,
        others=disturbance(samples),
    )


_SECTION = """## The queue: no-op jobs

Written by `make bench-queue ARGS=--write` on {day}; what follows is one run.

{facts}

![Throughput, CPU, pick-up latency and memory beside Node BullMQ]({picture})

{tables}

### Goals

{goals}

### How it is measured
- Each worker is one process with its defaults: `worker-core run` with the no-op job type, BullMQ's `Worker` in Node, `Worker` of the PyPI package. Each turn has a fresh server and a fresh process; the peers take turns, and who went first goes last in the next round.
- A figure is the median of its rounds. A ratio is taken within each round; its median stands before the lowest and the highest.
- The clock starts when the worker is ready, warm (some thousand jobs) and idle: the backlog, put aside before, is renamed into place. It stops when the last job has completed, asked for every 20 ms.
- Other programs took at most {others:.0f} % of one core in any of these backlogs.
- CPU is user and system time of the worker's process. Commands are what its connections sent; Lua is the server's time in EVALSHA. What the observer asks is in neither.
- Nobody's no-op returns anything. worker-core publishes its result envelope all the same (about 400 bytes), the others `null`.
- Pick-up: jobs one at a time, 20 to 60 ms apart; from before the call that adds a job until the processor begins, both on the machine's monotonic clock.
- Memory is the most that was resident while the jobs waited one second each, with 1000 slots; at rest (0 waiting) two seconds after the start, with 50 slots. USS is the part that no other process shares.
"""

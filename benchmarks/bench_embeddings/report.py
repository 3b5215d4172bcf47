"""A run as text, and whether its goal was met. Pure."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import attrs

from benchmarks.bench_embeddings.ways import Engine, Way
from benchmarks.bench_queue.report import markdown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.bench_embeddings.measure import Measured

__all__ = ["GOAL", "Run", "Verdict", "judge", "section", "table"]

GOAL = 2.5
"""Micro-batched over one call a job, on the fake engine."""


@attrs.define
class Run:
    """All that was measured: for each engine and way, a value for each round."""

    values: dict[tuple[Engine, Way], list[Measured]] = attrs.field(factory=dict)

    def add(self, engine: Engine, way: Way, measured: Measured) -> None:
        """Add a round."""
        self.values.setdefault((engine, way), []).append(measured)

    def speed(self, engine: Engine, way: Way) -> float | None:
        """Return the median of the rounds, in embeddings a second."""
        return _median([one.embeddings_per_second for one in self.values.get((engine, way), [])])

    def inputs_a_call(self, engine: Engine, way: Way) -> float | None:
        """Return the median of the rounds."""
        rounds = self.values.get((engine, way), [])
        return _median([one.inputs_a_call for one in rounds if one.inputs_a_call is not None])

    def ratio(self, engine: Engine, over: Way) -> float | None:
        """Return micro-batched over another way: the median of the ratios within each round."""
        pairs = zip(
            self.values.get((engine, Way.BATCHED), []),
            self.values.get((engine, over), []),
            strict=False,
        )
        return _median([a.embeddings_per_second / b.embeddings_per_second for a, b in pairs])


@attrs.frozen
class Verdict:
    """The goal, and what was reached; `None` where it was not measured."""

    reached: float | None

    @property
    def is_missed(self) -> bool:
        """Whether it was measured and not reached; unrounded."""
        return self.reached is not None and self.reached < GOAL

    def __str__(self) -> str:
        """Say it in a line."""
        name = "micro-batched over one call a job, fake engine"
        if self.reached is None:
            return f"{name}: - (at least {GOAL:g} x): not measured"
        word = "MISSED" if self.is_missed else "met"
        return f"{name}: {self.reached:.2f} x (at least {GOAL:g} x): {word}"


def judge(run: Run) -> Verdict:
    """Hold a run against the goal."""
    return Verdict(run.ratio(Engine.FAKE, Way.ONE_BY_ONE))


def table(run: Run) -> str:
    """Return what was measured, as Markdown that reads well unrendered."""
    head = ["engine", "worker", "embeddings/s", "inputs a call", "micro-batched / this"]
    rows = [
        [
            *(engine.title, way.title),
            _number(run.speed(engine, way), 0),
            _number(run.inputs_a_call(engine, way), 1),
            "" if way is Way.BATCHED else _number(run.ratio(engine, way), 2),
        ]
        for engine in Engine
        for way in Way
        if (engine, way) in run.values
    ]
    return markdown(head, rows) if rows else ""


def section(run: Run, *, day: str, machine: Mapping[str, str]) -> str:
    """Return the section of RESULTS.md."""
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    return _SECTION.format(day=day, facts=facts, table=table(run), goal=judge(run))


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


_SECTION = """## Embeddings: micro-batches

Written by `make bench-embeddings ARGS=--write` on {day}; what follows is one run.

{facts}

{table}

### Goal

- {goal}

### How it is measured
- A backlog of jobs of one text each, put aside first and released at once; the clock stops when the last has completed. Each turn has a fresh Valkey, engine and worker process, which has done 200 jobs before (20 on the embedded engine); who went first goes last in the next round.
- The fake engine takes 2 ms a call and 0.2 ms an input, and computes for one call at a time, as Ollama does for one model. It is a Python process that serves real HTTP: what it takes on top of that is in every figure.
- The embedded llama.cpp computes one input at a time, on the same cores: a shared call saves what calls cost, and no computing.
- Everybody has 64 slots. The Node worker calls `/api/embed` for each job and returns the vector. Its calls wait at the server; worker-core sends a model one call after the other, batched or not, so without batches each waits until the answer before it has been read.
- A figure is the median of its rounds, a ratio the median of the ratios within each round.
"""

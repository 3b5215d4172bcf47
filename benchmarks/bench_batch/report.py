"""What was measured, in words: on the terminal and as a section of RESULTS.md. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from benchmarks.bench_queue.goals import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GOAL_MB", "Goal", "Run", "Step", "judge", "section", "table"]

GOAL_MB = 200.0
"""The most memory that the worker, and each command, may ever have resident."""

_HEADING = "## Batches: memory of 50,000 requests"
_KIB_OF_MB = 1_000_000 / 1024


@attrs.frozen
class Step:
    """One step of a batch, done by one process."""

    name: str
    seconds: float
    peak_kib: int
    """The most that the process ever had resident (VmHWM)."""
    takes_each: bool = True
    """Whether it goes through all requests."""

    @property
    def peak_mb(self) -> float:
        """The same in megabytes."""
        return self.peak_kib / _KIB_OF_MB


@attrs.frozen(kw_only=True)
class Run:
    """A batch, from its file to its answers."""

    requests: int
    file_bytes: int
    steps: tuple[Step, ...]
    unmatched: int
    """Requests without exactly one right line of output, and lines that belong to none."""


@attrs.frozen
class Goal:
    """What was promised, and how it came out."""

    words: str
    is_met: bool

    @property
    def verdict(self) -> Verdict:
        """Whether it was kept."""
        return Verdict.MET if self.is_met else Verdict.MISSED

    def __str__(self) -> str:
        return f"{self.words}: {self.verdict.value}"


def judge(run: Run) -> list[Goal]:
    """Hold a run against what is promised."""
    memory = [
        Goal(
            f"peak memory of {_who(step)}: {step.peak_mb:.0f} MB (below {GOAL_MB:g} MB)",
            step.peak_mb < GOAL_MB,
        )
        for step in run.steps
    ]
    words = f"requests without one line of output that answers them: {run.unmatched} (0)"
    return [*memory, Goal(words, run.unmatched == 0)]


def table(run: Run) -> str:
    """Return the figures of each step."""
    head = "| step         |        by |       s | requests/s | peak MB |\n"
    head += "| ------------ | --------: | ------: | ---------: | ------: |\n"
    return head + "\n".join(
        f"| {step.name:<12} | {_process(step):>9} | {step.seconds:>7.1f} "
        f"| {_rate(run, step):>10} | {step.peak_mb:>7.1f} |"
        for step in run.steps
    )


def section(run: Run, *, day: str, machine: Mapping[str, str]) -> str:
    """Return the section of RESULTS.md."""
    return _SECTION.format(
        heading=_HEADING,
        day=day,
        machine="\n".join(f"- {name}: {value}" for name, value in machine.items()),
        table=table(run),
        goals="\n".join(f"- {goal}" for goal in judge(run)),
        requests=f"{run.requests:,}",
        megabytes=f"{run.file_bytes / 1_000_000:.1f}",
    )


def _rate(run: Run, step: Step) -> str:
    return f"{run.requests / step.seconds:.0f}" if step.takes_each else ""


def _process(step: Step) -> str:
    return "worker" if step.name == "run" else "a command"


def _who(step: Step) -> str:
    return "the worker" if step.name == "run" else f"`{step.name}`"


_SECTION = """{heading}

Written by `make bench-batch ARGS=--write` on {day}; what follows is one run.

{machine}

{table}

{goals}

A file of {requests} one-word chats ({megabytes} MB) is submitted, run and fetched. Commands, worker, Valkey and engine (the fake one, which answers at once with the words that it is told) are processes of one machine; all have their defaults, so four chats run at a time. `run` is from the batch being on its queue until it has completed: its requests are checked, run, and each outcome is recorded on its own. Memory is the most that a process ever had resident (VmHWM): of a command at its end, of the worker when the batch has ended.
"""

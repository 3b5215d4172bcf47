"""`make bench-batch`: measure, print, and say whether the goals were met."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from benchmarks.bench_batch import report
from benchmarks.bench_batch.measuring import measure
from benchmarks.bench_queue import machine
from benchmarks.bench_queue.goals import Verdict
from benchmarks.results_page import publish

_REQUESTS = 50_000
_QUICK_REQUESTS = 2_000


@click.command()
@click.option("--quick", is_flag=True, help="A short file: a first look, not a result.")
@click.option("--write", is_flag=True, help="Write the section of benchmarks/RESULTS.md.")
def main(*, quick: bool, write: bool) -> None:
    """Submit, run and fetch a file of one-word chats.

    Exits with 1 when a goal is missed.
    """
    if write and quick:
        raise click.UsageError("--write publishes whole runs only: leave --quick out")
    run = measure(_QUICK_REQUESTS if quick else _REQUESTS, lambda word: click.echo(word, err=True))
    if write:
        day = datetime.now(UTC).date().isoformat()
        publish(report.section(run, day=day, machine=machine.describe([])))
    goals = report.judge(run)
    click.echo("\n".join([report.table(run), "", *map(str, goals)]))
    sys.exit(1 if any(goal.verdict is Verdict.MISSED for goal in goals) else 0)


if __name__ == "__main__":
    main(prog_name="make bench-batch")

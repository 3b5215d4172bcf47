"""`make bench-stream`: measure, print, and say whether the goal was met."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click
import trio

from benchmarks.bench_queue.goals import Verdict
from benchmarks.bench_stream import report
from benchmarks.bench_stream.measuring import measure
from benchmarks.results_page import publish

_PAIRS = 500
_QUICK_PAIRS = 60
_TOLD_EVERY = 50


@click.command()
@click.option("--quick", is_flag=True, help="Few questions: a first look, not a result.")
@click.option("--write", is_flag=True, help="Write the section of benchmarks/RESULTS.md.")
def main(*, quick: bool, write: bool) -> None:
    """Measure how much later a first token comes through queue and stream.

    Exits with 1 when the goal is missed.
    """
    if write and quick:
        raise click.UsageError("--write publishes whole runs only: leave --quick out")
    pairs = _QUICK_PAIRS if quick else _PAIRS
    summary = report.summarise(trio.run(measure, pairs, _tell))
    text = report.section(summary, day=datetime.now(UTC).date().isoformat())
    if write:
        publish(text)
    click.echo(text.partition("\n\n")[2].partition("\n\n")[2].partition("\n\n")[0] + "\n")
    click.echo(summary.judgement)
    sys.exit(1 if summary.verdict is Verdict.MISSED else 0)


def _tell(number: int, pair: report.Pair) -> None:
    if number % _TOLD_EVERY == 0:
        click.echo(
            f"{number}: {pair.direct_ms:.2f} ms from the engine, "
            f"{pair.streamed_ms:.2f} ms through the queue",
            err=True,
        )


if __name__ == "__main__":
    main(prog_name="make bench-stream")

"""`make bench-embeddings`: measure, print the table and, last, how the goal came out."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from benchmarks.bench_embeddings import report
from benchmarks.bench_embeddings.measure import measure
from benchmarks.bench_embeddings.ways import Engine, Way
from benchmarks.bench_queue import machine
from benchmarks.bench_queue.peers import Peer, PeerFailed, install_node_packages
from benchmarks.results_page import publish

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS, _QUICK_ROUNDS = 5, 1
_JOBS = {Engine.FAKE: 4000, Engine.LLAMACPP: 200}
_QUICK_SHARE = 8


@click.command()
@click.option("--quick", is_flag=True, help="One short round: a first look, not a result.")
@click.option("--node/--no-node", default=True, help="Whether to measure the Node worker.")
@click.option("--write", is_flag=True, help="Write the section of benchmarks/RESULTS.md.")
def main(quick: bool, node: bool, write: bool) -> None:
    """Measure embeddings a second, micro-batched beside one call a job.

    Exits with 1 when the goal is missed.
    """
    if write and (quick or not node):
        raise click.UsageError("--write publishes whole runs only: leave the other options out")
    try:
        if node:
            install_node_packages()
        run = _measure(quick=quick, node=node)
    except PeerFailed as error:
        raise click.ClickException(str(error)) from None
    if write:
        day = datetime.now(UTC).date().isoformat()
        peers = [Peer.OURS, Peer.NODE]
        publish(report.section(run, day=day, machine=machine.describe(peers)))
    verdict = report.judge(run)
    click.echo(f"{report.table(run)}\n\n{verdict}")
    sys.exit(1 if verdict.is_missed else 0)


def _measure(*, quick: bool, node: bool) -> report.Run:
    run = report.Run()
    rounds = _QUICK_ROUNDS if quick else _ROUNDS
    for number in range(rounds):
        for engine, way in _turns(number, node=node):
            jobs = _JOBS[engine] // (_QUICK_SHARE if quick else 1)
            measured = measure(way, engine, jobs=jobs)
            run.add(engine, way, measured)
            click.echo(
                f"{number + 1}/{rounds} {engine.title}, {way.title}: "
                f"{measured.embeddings_per_second:.0f} embeddings/s",
                err=True,
            )
    return run


def _turns(number: int, *, node: bool) -> Iterator[tuple[Engine, Way]]:
    for engine in Engine:
        # What Node would be measured on is a server: the embedded engine is none.
        ways = [way for way in Way if way is not Way.NODE or (node and engine is Engine.FAKE)]
        # Who goes first goes last the next time.
        yield from ((engine, way) for way in (ways if number % 2 == 0 else ways[::-1]))


if __name__ == "__main__":
    main(prog_name="make bench-embeddings")

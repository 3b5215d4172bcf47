"""`make bench-queue`: measure, print the tables and, last, how each goal came out."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from benchmarks.bench_queue import goals, machine, plan, report
from benchmarks.bench_queue.peers import Peer, PeerFailed, install_node_packages
from benchmarks.bench_queue.samples import Sample, Samples
from benchmarks.results_page import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SLOTS = (1, 10, 50, 200)
_BUSY_PERCENT = 20.0
_FOLDER = Path(__file__).parent.parent


def _names(known: Mapping[str, object]) -> Callable[..., tuple[object, ...]]:
    """Read `a,b` as what the names stand for."""

    def read(_: click.Context, __: click.Parameter, value: str) -> tuple[object, ...]:
        try:
            return tuple(known[name.strip()] for name in value.split(","))
        except KeyError as error:
            raise click.BadParameter(
                f"{error} is none of {', '.join(known)}; separate several by commas"
            ) from None

    return read


@click.command()
@click.option(
    "--only",
    "peers",
    default="ours,node,python",
    show_default=True,
    callback=_names({peer.value: peer for peer in Peer}),
    help="Whom to measure.",
)
@click.option(
    "--part",
    "parts",
    default="throughput,pickup,memory,idle",
    show_default=True,
    callback=_names({part.value: part for part in plan.Part}),
    help="What to measure.",
)
@click.option(
    "--slots",
    default=",".join(map(str, _SLOTS)),
    show_default=True,
    callback=_names({str(n): n for n in _SLOTS}),
    help="Slots of the backlogs.",
)
@click.option("--quick", is_flag=True, help="Two short rounds: a first look, not a result.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of backlogs and pick-ups.")
@click.option("--write", is_flag=True, help="Write benchmarks/RESULTS.md and its picture.")
def main(
    peers: Sequence[Peer],
    parts: Sequence[plan.Part],
    slots: Sequence[int],
    quick: bool,
    rounds: int | None,
    write: bool,
) -> None:
    """Measure worker-core beside Node BullMQ and the official Python worker.

    Exits with 1 when a goal is missed.
    """
    if write and (
        quick or {*peers} != {*Peer} or {*parts} != {*plan.Part} or {*slots} != {*_SLOTS}
    ):
        raise click.UsageError("--write publishes whole runs only: leave the other options out")
    size = plan.QUICK if quick else plan.FULL
    if rounds is not None:
        size = attrs.evolve(size, rounds=rounds)
    try:
        if Peer.NODE in peers:
            install_node_packages()
        samples = _measure(list(plan.turns(size, peers=peers, slots=slots, parts=parts)))
    except PeerFailed as error:
        raise click.ClickException(str(error)) from None
    judgements = goals.judge(samples)
    if write:
        _write(samples, judgements, list(peers))
    if (others := report.disturbance(samples)) > _BUSY_PERCENT:
        click.echo(
            f"Other programs took up to {others:.0f} % of a core meanwhile: "
            f"what was measured holds for a busy machine.",
            err=True,
        )
    click.echo(report.tables(samples) + "\n")
    for judgement in judgements:
        click.echo(str(judgement))
    missed = [j for j in judgements if j.verdict is goals.Verdict.MISSED]
    sys.exit(1 if missed else 0)


def _measure(turns: list[plan.Turn]) -> Samples:
    found: list[Sample] = []
    for number, turn in enumerate(turns, 1):
        values = turn.measure.measure(turn.peer)
        case = turn.measure.case
        found += [
            Sample(figure, turn.peer, case, turn.round, value) for figure, value in values.items()
        ]
        seen = "  ".join(f"{value:.2f} {figure.value}" for figure, value in values.items())
        click.echo(f"{number}/{len(turns)} {turn.peer.title}, {case}: {seen}", err=True)
    return Samples(found)


def _write(samples: Samples, judgements: Sequence[goals.Judgement], peers: list[Peer]) -> None:
    from benchmarks.bench_queue.picture import draw  # noqa: PLC0415  # nothing else needs the library that draws

    section = report.section(
        samples,
        judgements,
        day=datetime.now(UTC).date().isoformat(),
        machine=machine.describe(peers),
    )
    draw(samples, _FOLDER / report.PICTURE)
    publish(section)


if __name__ == "__main__":
    main(prog_name="make bench-queue")

"""The picture of a run: four charts, the peers side by side in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from matplotlib import rc_context
from matplotlib.figure import Figure as Drawing
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.bench_queue.peers import Peer
from benchmarks.bench_queue.samples import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.bench_queue.samples import Samples

__all__ = ["draw"]

_COLOURS = {Peer.OURS: "#0b6e4f", Peer.NODE: "#8aa29e", Peer.PYTHON: "#d9c5b2"}
_GROUP_WIDTH = 0.84
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    # Letters as outlines: the same picture wherever it is looked at, and from the same run twice.
    "svg.fonttype": "path",
    "svg.hashsalt": "bench-queue",
}


@attrs.frozen
class _Group:
    """Bars side by side: one figure in one case, a bar for each peer."""

    label: str
    figure: Figure
    case: int


@attrs.frozen
class _Chart:
    title: str
    groups: list[_Group]


def draw(samples: Samples, file: Path) -> None:
    """Draw what was measured; the format is that of the file's name."""
    charts = [chart for chart in _charts(samples) if chart.groups]
    with rc_context(_STYLE):
        drawing = Drawing(
            figsize=(10, 3.2 * ((len(charts) + 1) // 2)),
            layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12),
        )
        for number, chart in enumerate(charts, 1):
            _draw_chart(
                drawing.add_subplot((len(charts) + 1) // 2, min(2, len(charts)), number),
                chart,
                samples,
            )
        handles, labels = drawing.axes[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        # Without the date, the picture changes only when the figures do.
        metadata = {"Date": None} if file.suffix == ".svg" else None
        drawing.savefig(file, dpi=110, metadata=metadata)


def _charts(samples: Samples) -> list[_Chart]:
    def by_slots(figure: Figure) -> list[_Group]:
        cases = samples.cases(figure)
        return [_Group(f"{n} slot{'s' * (n > 1)}", figure, n) for n in cases]

    pickups = [
        _Group(label, figure, case)
        for label, figure in (("p50", Figure.PICKUP_P50_MS), ("p99", Figure.PICKUP_P99_MS))
        for case in samples.cases(figure)
    ]
    memory = [
        _Group(f"{case} waiting" if case else "at rest", Figure.RSS_MB, case)
        for case in samples.cases(Figure.RSS_MB)
    ]
    return [
        _Chart("Throughput, jobs/s (more is better)", by_slots(Figure.JOBS_PER_SECOND)),
        _Chart("Worker CPU, µs a job (less is better)", by_slots(Figure.CPU_US)),
        _Chart("Pick-up by an idle worker, ms (less is better)", pickups),
        _Chart("Resident memory, MB, by waiting jobs (less is better)", memory),
    ]


def _draw_chart(axes: Axes, chart: _Chart, samples: Samples) -> None:
    peers = samples.peers()
    width = _GROUP_WIDTH / len(peers)
    for place, peer in enumerate(peers):
        values = [samples.median(group.figure, peer, group.case) or 0 for group in chart.groups]
        shift = (place - (len(peers) - 1) / 2) * width
        at = [number + shift for number in range(len(chart.groups))]
        bars = axes.bar(at, values, width, color=_COLOURS[peer], label=peer.title)
        axes.bar_label(bars, [_short(value) for value in values], fontsize=7, padding=1)
    axes.set_title(chart.title)
    axes.set_xticks(range(len(chart.groups)), [group.label for group in chart.groups])
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.margins(y=0.12)


def _short(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"

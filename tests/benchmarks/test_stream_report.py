"""The figures of `make bench-stream`, and their place in RESULTS.md."""

from __future__ import annotations

import pytest

from benchmarks.bench_queue.goals import Verdict
from benchmarks.bench_stream.report import Pair, section, summarise
from benchmarks.results_page import with_section


def run_of(*later_ms: float) -> list[Pair]:
    return [
        Pair(direct_ms=2.0 + number, streamed_ms=2.0 + number + later)
        for number, later in enumerate(later_ms)
    ]


@pytest.mark.parametrize(
    ("later_ms", "verdict"),
    [((1.0, 5.0, 30.0), Verdict.MET), ((1.0, 5.001, 5.1), Verdict.MISSED)],
)
def test_the_goal_is_about_the_median_of_the_differences(later_ms, verdict):
    summary = summarise(run_of(*later_ms))
    assert summary.verdict is verdict
    assert verdict.value in summary.judgement
    assert f"{sorted(later_ms)[1]:.2f} ms" in summary.judgement


def test_the_section_has_the_figures():
    text = section(summarise(run_of(1.0, 2.0, 3.0)), day="2026-01-02")
    assert "on 2026-01-02" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [row.split("|")[2].strip() for row in rows[2:]] == ["3.00", "5.00", "2.00"]


def test_the_section_is_one_that_the_page_knows_again():
    old, new = (section(summarise(run_of(*ms)), day="d") for ms in ((1, 1), (2, 2)))
    page = with_section("# Results\n", old)
    assert with_section(page, new) == with_section("# Results\n", new)

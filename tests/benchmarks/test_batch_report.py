"""The figures of `make bench-batch`, and their place in RESULTS.md."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from benchmarks.bench_batch.measuring import peak_kib
from benchmarks.bench_batch.report import Run, Step, judge, section, table
from benchmarks.bench_queue.goals import Verdict
from benchmarks.results_page import with_section

RUN = Run(
    requests=1000,
    file_bytes=150_000,
    steps=(Step("batch submit", 2.0, 50_000), Step("run", 10.0, 100_000)),
    unmatched=0,
)


def verdicts(run):
    return [goal.verdict for goal in judge(run)]


def test_all_goals_are_met():
    assert verdicts(RUN) == [Verdict.MET] * 3


@pytest.mark.parametrize(("peak", "verdict"), [(195_312, Verdict.MET), (195_313, Verdict.MISSED)])
def test_every_process_stays_below_the_goal(peak, verdict):
    steps = (RUN.steps[0], Step("run", 10.0, peak))
    goals = judge(attrs.evolve(RUN, steps=steps))
    assert [goal.verdict for goal in goals] == [Verdict.MET, verdict, Verdict.MET]
    assert "the worker" in str(goals[1])


def test_every_request_has_its_line():
    assert verdicts(attrs.evolve(RUN, unmatched=1))[-1] is Verdict.MISSED


def test_the_table_has_the_figures():
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table(RUN).splitlines()]
    assert rows[2:] == [
        ["batch submit", "a command", "2.0", "500", "51.2"],
        ["run", "worker", "10.0", "100", "102.4"],
    ]


def test_what_takes_no_requests_has_no_rate():
    status = Step("batch status", 0.5, 40_000, takes_each=False)
    [*_, row] = table(attrs.evolve(RUN, steps=(status,))).splitlines()
    assert [cell.strip() for cell in row.split("|")[3:-1]] == ["0.5", "", "41.0"]


def test_the_section_is_one_that_the_page_knows_again():
    old, new = (section(RUN, day=day, machine={"CPU": "some"}) for day in ("d1", "d2"))
    page = with_section("# Results\n", old)
    assert with_section(page, new) == with_section("# Results\n", new)
    assert "0.1 MB" in new or "0.2 MB" in new


def test_a_processs_peak_is_read():
    assert peak_kib(Path(f"/proc/{os.getpid()}/status").read_text()) > 1000
    with pytest.raises(ValueError, match="VmHWM"):
        peak_kib("Name:\tpython\n")

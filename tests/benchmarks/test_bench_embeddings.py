"""The embeddings' benchmark: its table, its goal, and that its measurement works."""

from __future__ import annotations

import pytest

from benchmarks.bench_embeddings.measure import Measured, measure
from benchmarks.bench_embeddings.report import Run, judge, section, table
from benchmarks.bench_embeddings.ways import Engine, Way


def run_of(batched: float, one: float) -> Run:
    run = Run()
    for factor in (1.0, 1.1, 5.0):
        run.add(Engine.FAKE, Way.BATCHED, Measured(batched * factor, 30.0))
        run.add(Engine.FAKE, Way.ONE_BY_ONE, Measured(one * factor, 1.0))
    return run


@pytest.mark.parametrize(
    ("batched", "said"),
    [
        (250.0, "2.50 x (at least 2.5 x): met"),
        (249.9, "2.50 x (at least 2.5 x): MISSED"),
    ],
)
def test_a_goal_that_is_only_met_when_rounded_is_missed_by_name(batched: float, said: str) -> None:
    verdict = judge(run_of(batched, 100.0))
    assert str(verdict) == f"micro-batched over one call a job, fake engine: {said}"
    assert verdict.is_missed == said.endswith("MISSED")


def test_what_was_not_measured_is_not_missed() -> None:
    assert not judge(Run()).is_missed
    assert "not measured" in str(judge(Run()))


def test_the_section_holds_the_machine_the_table_and_the_goal() -> None:
    run = run_of(300.0, 100.0)
    page = section(run, day="2030-01-02", machine={"CPU": "a fast one"})
    assert page.startswith("## Embeddings: micro-batches\n")
    assert "on 2030-01-02" in page
    assert "- CPU: a fast one\n" in page
    assert table(run) in page
    assert f"- {judge(run)}\n" in page


@pytest.mark.parametrize(("way", "inputs"), [(Way.BATCHED, 5.0), (Way.ONE_BY_ONE, 0.5)])
def test_a_backlog_is_measured_and_its_calls_are_counted(way: Way, inputs: float) -> None:
    measured = measure(way, Engine.FAKE, jobs=64)
    assert measured.embeddings_per_second > 0
    assert measured.inputs_a_call is not None
    assert measured.inputs_a_call >= inputs
    assert way is Way.BATCHED or measured.inputs_a_call <= 1

"""Goals: when one counts as met, and what is said of it."""

from __future__ import annotations

import pytest

from benchmarks.bench_queue.goals import GOALS, Bound, Goal, Judgement, Verdict, judge
from benchmarks.bench_queue.peers import Peer
from benchmarks.bench_queue.samples import Figure, Sample, Samples

SPEED = Goal("speed", Figure.JOBS_PER_SECOND, 50, Peer.NODE, Bound.AT_LEAST, 1.1)


@pytest.mark.parametrize(
    ("bound", "below", "at", "above"),
    [
        (Bound.AT_LEAST, Verdict.MISSED, Verdict.MET, Verdict.MET),
        (Bound.AT_MOST, Verdict.MET, Verdict.MET, Verdict.MISSED),
        (Bound.BELOW, Verdict.MET, Verdict.MISSED, Verdict.MISSED),
    ],
)
def test_a_value_lies_on_the_right_side_of_the_limit_or_misses_it(
    bound: Bound, below: Verdict, at: Verdict, above: Verdict
) -> None:
    goal = Goal("a goal", Figure.IDLE_CPU, 50, None, bound, 1.0)
    found = [Judgement(goal, value).verdict for value in (0.999, 1.0, 1.001)]
    assert found == [below, at, above]


def test_a_ratio_that_only_rounds_to_its_limit_is_missed() -> None:
    judgement = Judgement(SPEED, 1.0999)
    assert judgement.verdict is Verdict.MISSED
    assert str(judgement) == ("speed: 1.10 x Node BullMQ (at least 1.1 x Node BullMQ): MISSED")


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {judgement.verdict for judgement in judge(Samples())} == {Verdict.NOT_MEASURED}


def test_each_goal_is_held_against_its_own_figure_and_peer() -> None:
    limits = {goal.name: goal.limit for goal in GOALS}
    samples = Samples(
        [
            Sample(Figure.JOBS_PER_SECOND, Peer.OURS, 50, 0, 9000.0),
            Sample(Figure.JOBS_PER_SECOND, Peer.NODE, 50, 0, 6000.0),
            Sample(Figure.JOBS_PER_SECOND, Peer.PYTHON, 50, 0, 2000.0),
            Sample(Figure.IDLE_CPU, Peer.OURS, 50, 0, 0.5),
            Sample(Figure.IDLE_CPU, Peer.NODE, 50, 0, 99.0),
        ]
    )
    reached = {
        (judgement.goal.name, judgement.goal.over): (judgement.reached, judgement.verdict)
        for judgement in judge(samples)
        if judgement.verdict is not Verdict.NOT_MEASURED
    }
    assert reached == {
        ("throughput at 50 slots", Peer.NODE): (1.5, Verdict.MET),
        ("throughput at 50 slots", Peer.PYTHON): (4.5, Verdict.MISSED),
        ("idle CPU %", None): (0.5, Verdict.MET),
    }
    assert limits["idle CPU %"] == 1.0


def test_the_goals_are_those_that_were_promised() -> None:
    promised = {(goal.figure, goal.case, goal.over, goal.bound, goal.limit) for goal in GOALS}
    speed, node, python = Figure.JOBS_PER_SECOND, Peer.NODE, Peer.PYTHON
    assert promised == {
        (speed, 1, node, Bound.AT_LEAST, 1.0),
        (speed, 10, node, Bound.AT_LEAST, 1.1),
        (speed, 50, node, Bound.AT_LEAST, 1.1),
        (speed, 50, python, Bound.AT_LEAST, 8.0),
        (Figure.CPU_US, 50, node, Bound.AT_MOST, 0.8),
        (Figure.PICKUP_P50_MS, 50, node, Bound.AT_MOST, 1.1),
        (Figure.RSS_MB, 0, node, Bound.AT_MOST, 1.0),
        (Figure.RSS_MB, 1000, node, Bound.AT_MOST, 0.8),
        (Figure.IDLE_SCRIPTS, 50, None, Bound.BELOW, 1.0),
        (Figure.IDLE_CPU, 50, None, Bound.BELOW, 1.0),
    }

"""Medians and ratios: taken within a round, never across rounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench_queue.peers import Peer
from benchmarks.bench_queue.samples import Figure, Sample, Samples, Spread

SPEED = Figure.JOBS_PER_SECOND


def rounds(peer: Peer, *values: float, case: int = 50) -> list[Sample]:
    return [Sample(SPEED, peer, case, number, value) for number, value in enumerate(values)]


def test_a_ratio_is_taken_within_each_round() -> None:
    # The machine halves its speed in the second round: nobody's merit.
    samples = Samples(
        [*rounds(Peer.OURS, 120.0, 60.0, 130.0), *rounds(Peer.NODE, 100.0, 50.0, 100.0)]
    )
    assert samples.ratio(SPEED, 50, Peer.NODE) == Spread(median=1.2, low=1.2, high=1.3)


def test_a_round_that_one_of_them_lacks_does_not_count() -> None:
    samples = Samples([*rounds(Peer.OURS, 100.0, 900.0), *rounds(Peer.NODE, 50.0)])
    assert samples.ratio(SPEED, 50, Peer.NODE) == Spread(2.0, 2.0, 2.0)


def test_there_is_no_ratio_without_a_round_in_common() -> None:
    assert Samples(rounds(Peer.OURS, 1.0)).ratio(SPEED, 50, Peer.NODE) is None
    assert Samples().median(SPEED, Peer.OURS, 50) is None


def test_cases_and_figures_are_kept_apart() -> None:
    samples = Samples(
        [
            *rounds(Peer.OURS, 1.0, case=10),
            *rounds(Peer.OURS, 5.0, case=1),
            Sample(Figure.CPU_US, Peer.OURS, 10, 0, 70.0),
        ]
    )
    assert samples.cases(SPEED) == [1, 10]
    assert samples.median(SPEED, Peer.OURS, 10) == 1.0
    assert samples.peers() == [Peer.OURS]


@given(st.lists(st.floats(1.0, 1e6), min_size=1, max_size=7), st.floats(0.1, 10.0))
def test_a_peer_that_is_always_so_many_times_faster_has_that_ratio(
    theirs: list[float], factor: float
) -> None:
    ours = [value * factor for value in theirs]
    spread = Samples([*rounds(Peer.OURS, *ours), *rounds(Peer.NODE, *theirs)]).ratio(
        SPEED, 50, Peer.NODE
    )
    assert spread is not None
    assert [spread.low, spread.median, spread.high] == pytest.approx([factor] * 3)

"""Tallies are written as prometheus-client writes its own counters and histograms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from worker_core._observe.tallies import CounterTally, HistogramTally

BOUNDS = (0.005, 0.5, 1, 10)
LABELS = ("worker_id", "model")
labelled = st.tuples(st.sampled_from(["w", 'quote " and \\']), st.sampled_from(["a", "b\n"]))


def lines(registry: CollectorRegistry) -> list[str]:
    written = generate_latest(registry).decode().splitlines()
    return sorted(line for line in written if "_created" not in line)


@given(
    st.lists(
        st.tuples(labelled, st.sampled_from([*BOUNDS, 0.0, 0.7, 11.5, 1e9]) | st.floats(0, 20))
    )
)
def test_a_histogram_is_written_as_the_librarys(
    observed: list[tuple[tuple[str, str], float]],
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = HistogramTally("seconds", "How long.", LABELS, BOUNDS)
    ours.register(tally)
    histogram = Histogram("seconds", "How long.", LABELS, registry=theirs, buckets=BOUNDS)
    for labels, value in observed:
        tally.observe(value, *labels)
        histogram.labels(*labels).observe(value)
    assert lines(ours) == lines(theirs)


@given(st.lists(labelled))
def test_a_counter_is_written_as_the_librarys(counted: list[tuple[str, str]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = CounterTally("jobs", "How many.", LABELS)
    ours.register(tally)
    counter = Counter("jobs", "How many.", LABELS, registry=theirs)
    for labels in counted:
        tally.count(*labels)
        counter.labels(*labels).inc()
    assert lines(ours) == lines(theirs)


def test_a_name_that_is_taken_is_refused() -> None:
    registry = CollectorRegistry()
    registry.register(CounterTally("jobs", "How many.", LABELS))
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("jobs", "How many.", registry=registry)

"""Counting what happens once a job: counters and histograms without locks.

prometheus-client's own take a lock and several calls for each figure, which is a fifth of a quick
job's time. These are counted by the event loop's thread alone and read by it.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["CounterTally", "HistogramTally"]


class CounterTally(Collector):
    """A counter by label values."""

    _type = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name = name
        self._text = text
        self._labelnames = labels
        self._counts: dict[tuple[str, ...], int] = {}

    def count(self, *labels: str) -> None:
        """Count one."""
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Yield the counter without its counts, for the registry to know its name."""
        yield CounterMetricFamily(self._name, self._text, labels=self._labelnames)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the counter as it stands."""
        [family] = self.describe()
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family


class _Histogram:
    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0


class HistogramTally(Collector):
    """A histogram by label values, with upper bounds in ascending order; infinity is added."""

    _type = "histogram"

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self._name = name
        self._text = text
        self._labelnames = labels
        self._bounds = tuple(float(bound) for bound in bounds)
        self._names = [*map(str, self._bounds), "+Inf"]
        self._histograms: dict[tuple[str, ...], _Histogram] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count one value."""
        histogram = self._histograms.get(labels)
        if histogram is None:
            histogram = self._histograms[labels] = _Histogram(len(self._names))
        # A bound belongs to its own bucket: the label says "less or equal".
        histogram.counts[bisect_left(self._bounds, value)] += 1
        histogram.sum += value

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram without its counts, for the registry to know its name."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labelnames)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram as it stands."""
        [family] = self.describe()
        for labels, histogram in self._histograms.items():
            buckets = list(zip(self._names, accumulate(histogram.counts), strict=True))
            family.add_metric(labels, buckets, histogram.sum)
        yield family

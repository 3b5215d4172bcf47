"""The gauge of how circuits stand, read when metrics are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from worker_core.circuit import CircuitState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from worker_core.circuit import CircuitStanding

__all__ = ["CircuitGauge"]


class CircuitGauge(Collector):
    """For each circuit 1 for its state and 0 for the others; one that is forgotten is gone."""

    _type = "gauge"
    _name = "llm_worker_circuit_breaker_state"
    _labelnames = ("worker_id", "host", "circuit", "state")

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self.read: Callable[[], Iterable[CircuitStanding]] | None = None
        """Tells how the circuits stand; `None` as long as there are none."""

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauge without values, for the registry to know its name."""
        text = "Whether calls are let through: 1 for the state of a circuit, 0 for the others."
        yield GaugeMetricFamily(self._name, text, labels=self._labelnames)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauge as the circuits stand."""
        [family] = self.describe()
        for standing in () if self.read is None else self.read():
            for state in CircuitState:
                labels = (self._worker_id, standing.host, standing.circuit, state.value)
                family.add_metric(labels, float(state is standing.state))
        yield family

"""The worker's own metrics, in a registry of its own. docs/operations.md lists them all."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING

import attrs
import psutil
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from worker_core._observe.circuit_states import CircuitGauge
from worker_core._observe.tallies import CounterTally, HistogramTally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from worker_core.circuit import CircuitStanding

__all__ = ["EngineFigures", "FallbackOutcome", "WorkerMetrics"]

_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

_MODELS_NAMED = 100
"""How many models get label values of their own: what producers ask for must not grow them."""
_OTHER = "other"
_NONE = "none"


class FallbackOutcome(enum.Enum):
    """How it ended that a fallback strategy was asked."""

    ANSWERED = "answered"
    FAILED = "failed"
    """Every call that it made failed, or it broke its contract."""
    PASSED = "passed"


@attrs.frozen(kw_only=True)
class EngineFigures:
    """What is measured of a run that asked the engine. Times in seconds."""

    model: str
    answered: bool
    """Whether the model has answered: only such names get label values of their own."""
    admission: float
    load: float | None = None
    first_token: float | None = None
    tokens_per_second: float | None = None


class WorkerMetrics:
    """Counters, gauges and histograms of one worker."""

    def __init__(self, worker_id: str) -> None:
        self.registry = CollectorRegistry()
        self._worker_id = worker_id
        self._models: set[str] = set()
        self._running_counts: dict[str, list[Callable[[], int]]] = {}
        self._began_at = time.monotonic()
        self._process = psutil.Process()
        self._requests = self._counter(
            "llm_worker_requests", "Runs of jobs by how they ended.", "model", "status"
        )
        self._seconds = self._histogram(
            "llm_worker_request_duration_seconds", "From claim to end.", _SECONDS
        )
        self._queue_wait = self._histogram(
            "llm_worker_queue_wait_seconds",
            "From when a job was due to its claim; first attempts only.",
            _SECONDS,
        )
        self._admission = self._histogram(
            "llm_worker_admission_seconds", "The wait for a model and a place.", _SECONDS
        )
        self._load = self._histogram(
            "llm_worker_model_load_seconds", "How long a load was waited for.", _SECONDS
        )
        self._first_token = self._histogram(
            "llm_worker_first_token_seconds", "From the engine call to the first piece.", _SECONDS
        )
        self._rate = self._histogram(
            "llm_worker_tokens_per_second", "Tokens generated a second.", _RATES
        )
        self._inner_runs = self._counter(
            "llm_worker_inner_runs",
            "Runs within jobs, such as a batch's items.",
            *("job_type", "status"),
        )
        self._fallbacks = self._counter(
            "llm_worker_fallbacks",
            "Fallback strategies that were asked, by how that ended.",
            *("strategy", "outcome"),
        )
        self._uptime = self._gauge("llm_worker_uptime_seconds", "Since the worker's start.")
        self._memory = self._gauge("llm_worker_memory_usage_bytes", "Resident memory.")
        self._models_loaded = self._gauge("llm_worker_models_loaded", "Models in memory.")
        self._reconnects = self._gauge(
            "llm_worker_redis_reconnects", "Connections to Redis made after the first."
        )
        self._running = self._gauge("llm_worker_jobs_running", "Jobs that run now.", "job_type")
        self._depth = self._gauge("llm_worker_queue_jobs", "Jobs by state.", "queue", "state")
        self._circuits = CircuitGauge(worker_id)
        self.registry.register(self._circuits)
        self._restarts = self._counter(
            "llm_worker_service_restarts", "Services that crashed.", "service"
        )

    def _counter(self, name: str, text: str, *labels: str) -> CounterTally:
        counter = CounterTally(name, text, ("worker_id", *labels))
        self.registry.register(counter)
        return counter

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, ("worker_id", *labels), registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> HistogramTally:
        histogram = HistogramTally(name, text, ("worker_id", "model"), bounds)
        self.registry.register(histogram)
        return histogram

    def job_ended(
        self,
        status: str,
        seconds: float,
        queue_wait: float | None,
        engine: EngineFigures | None,
    ) -> None:
        """Count one run, in seconds; `None` where there was nothing to measure."""
        worker = self._worker_id
        model = _NONE if engine is None else self._model_label(engine)
        self._requests.count(worker, model, status)
        self._seconds.observe(seconds, worker, model)
        if queue_wait is not None:
            self._queue_wait.observe(queue_wait, worker, model)
        if engine is not None:
            self._observe_engine(engine, model)

    def inner_run_ended(self, job_type: str, status: str, engine: EngineFigures | None) -> None:
        """Count a run of a job type within another's job."""
        self._inner_runs.count(self._worker_id, job_type, status)
        if engine is not None:
            self._observe_engine(engine, self._model_label(engine))

    def fallback_asked(self, strategy: str, outcome: FallbackOutcome) -> None:
        """Count that a fallback strategy was asked."""
        self._fallbacks.count(self._worker_id, strategy, outcome.value)

    def _observe_engine(self, engine: EngineFigures, model: str) -> None:
        for histogram, value in (
            (self._admission, engine.admission),
            (self._load, engine.load),
            (self._first_token, engine.first_token),
            (self._rate, engine.tokens_per_second),
        ):
            if value is not None:
                histogram.observe(value, self._worker_id, model)

    def _model_label(self, engine: EngineFigures) -> str:
        if engine.model in self._models:
            return engine.model
        if engine.answered and len(self._models) < _MODELS_NAMED:
            self._models.add(engine.model)
            return engine.model
        return _OTHER

    def watch_running(self, job_type: str, count: Callable[[], int]) -> None:
        """Read the number of running jobs of a type from `count` whenever metrics are written.

        A type that is fed by several queues has one of them for each.
        """
        counts = self._running_counts.setdefault(job_type, [])
        counts.append(count)
        gauge = self._running.labels(self._worker_id, job_type)
        gauge.set_function(lambda: sum(count() for count in counts))

    def watch_circuits(self, read: Callable[[], Iterable[CircuitStanding]]) -> None:
        """Read how the circuits stand from `read` whenever metrics are written."""
        self._circuits.read = read

    def redis_reconnects(self, count: int) -> None:
        """Note how often Redis had to be connected again."""
        self._reconnects.labels(self._worker_id).set(count)

    def service_restarted(self, service: str) -> None:
        """Count a restart of a service."""
        self._restarts.count(self._worker_id, service)

    def models_loaded(self, count: int) -> None:
        """Note how many models are in memory."""
        self._models_loaded.labels(self._worker_id).set(count)

    def queue_depth(self, queue: str, counts: Mapping[str, int]) -> None:
        """Note how many jobs a queue has in each state."""
        for state, count in counts.items():
            self._depth.labels(self._worker_id, queue, state).set(count)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        self._uptime.labels(self._worker_id).set(time.monotonic() - self._began_at)
        self._memory.labels(self._worker_id).set(self._process.memory_info().rss)
        written: bytes = generate_latest(self.registry)
        return written

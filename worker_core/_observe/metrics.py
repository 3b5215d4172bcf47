"""The worker's own metrics, in a registry of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from worker_core.job import Outcome

__all__ = ["WorkerMetrics"]

_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class WorkerMetrics:
    """Counters and histograms of one worker; children are looked up once for each label set."""

    def __init__(self, worker_id: str) -> None:
        self.registry = CollectorRegistry()
        self._worker_id = worker_id
        self._jobs = Counter(
            "worker_core_jobs",
            "Runs of jobs by how they ended.",
            ["worker_id", "job_type", "outcome"],
            registry=self.registry,
        )
        self._seconds = self._histogram("worker_core_job_seconds", "From claim to end.")
        self._queue_wait = self._histogram(
            "worker_core_queue_wait_seconds", "From adding the job to its claim."
        )
        self._admission = self._histogram(
            "worker_core_admission_seconds", "The wait for a model and a place."
        )
        self._first_token = self._histogram(
            "worker_core_first_token_seconds", "From the engine call to the first piece."
        )
        self._running = Gauge(
            "worker_core_jobs_running",
            "Jobs that run now.",
            ["worker_id", "job_type"],
            registry=self.registry,
        )
        self._reconnects = Gauge(
            "worker_core_redis_reconnects",
            "Connections to Redis made after the first.",
            ["worker_id"],
            registry=self.registry,
        ).labels(worker_id)
        self._restarts = Counter(
            "worker_core_service_restarts",
            "Restarts of services that crashed.",
            ["worker_id", "service"],
            registry=self.registry,
        )
        self._outcomes: dict[tuple[str, Outcome], Counter] = {}

    def _histogram(self, name: str, text: str) -> Histogram:
        labels = ["worker_id", "job_type"]
        return Histogram(name, text, labels, registry=self.registry, buckets=_SECONDS)

    def job_ended(
        self,
        job_type: str,
        outcome: Outcome,
        *,
        seconds: float,
        queue_wait: float,
        admission: float | None,
        first_token: float | None,
    ) -> None:
        """Count one run. Times in seconds; `None` where there was no engine call, or no token."""
        key = (job_type, outcome)
        if key not in self._outcomes:
            self._outcomes[key] = self._jobs.labels(self._worker_id, job_type, outcome.value)
        self._outcomes[key].inc()
        self._seconds.labels(self._worker_id, job_type).observe(seconds)
        self._queue_wait.labels(self._worker_id, job_type).observe(queue_wait)
        if admission is not None:
            self._admission.labels(self._worker_id, job_type).observe(admission)
        if first_token is not None:
            self._first_token.labels(self._worker_id, job_type).observe(first_token)

    def running(self, job_type: str) -> Gauge:
        """Return the gauge of running jobs of a type."""
        return self._running.labels(self._worker_id, job_type)

    def redis_reconnects(self, count: int) -> None:
        """Note how often Redis had to be connected again."""
        self._reconnects.set(count)

    def service_restarted(self, service: str) -> None:
        """Count a restart of a service."""
        self._restarts.labels(self._worker_id, service).inc()

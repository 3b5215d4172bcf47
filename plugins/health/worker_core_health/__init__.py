"""Health: probes and metrics over HTTP."""

from worker_core_health.plugin import HealthPlugin
from worker_core_health.service import HealthService
from worker_core_health.settings import HealthSettings

__all__ = ["HealthPlugin", "HealthService", "HealthSettings"]

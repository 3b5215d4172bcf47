"""The plugin class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_core import hookimpl
from worker_core_health.service import HealthService
from worker_core_health.settings import HealthSettings

if TYPE_CHECKING:
    from worker_core import Service

__all__ = ["HealthPlugin"]


class HealthPlugin:
    """Provides the service that answers probes and scrapes."""

    Settings = HealthSettings

    def __init__(self, settings: HealthSettings) -> None:
        self._settings = settings

    @hookimpl
    def worker_core_services(self) -> list[Service]:
        """Return the HTTP server."""
        return [HealthService(self._settings)]

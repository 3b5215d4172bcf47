"""The service: an HTTP server beside the jobs, which it must never disturb."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio

from worker_core import RestartPolicy, Service
from worker_core_health.app import build_app
from worker_core_health.listening import explain, listen, url_of
from worker_core_health.serving import serve

if TYPE_CHECKING:
    import socket

    from anyio.abc import TaskStatus

    from worker_core import ServiceContext
    from worker_core_health.settings import HealthSettings

__all__ = ["HealthService"]

_RETRY = timedelta(seconds=30)


class HealthService(Service):
    """Answers probes and scrapes; without its port it says so and tries again now and then."""

    name = "health"
    # Never spent, since backoff makes fewer of them in that time: jobs are worth more than the
    # page that tells of them, so its troubles are no reason to stop the worker.
    restart = RestartPolicy(max_restarts=1000, window=timedelta(minutes=5))

    def __init__(self, settings: HealthSettings, *, retry: timedelta = _RETRY) -> None:
        self._settings = settings
        self._retry = retry
        self.url: str | None = None
        """Where it is reached; `None` before it listens."""

    async def run(self, context: ServiceContext, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled; started when the port is open, or cannot be opened now."""
        async with anyio.create_task_group() as tasks:
            app = build_app(context.status, self._settings, tasks)
            listener = await self._try_listen(context)
            task_status.started()
            while listener is None:
                await anyio.sleep(self._retry.total_seconds())
                listener = await self._try_listen(context)
            with listener:
                await serve(app, listener)

    async def _try_listen(self, context: ServiceContext) -> socket.socket | None:
        host, port = self._settings.host, self._settings.port
        try:
            listener = await listen(host, port)
        except OSError as error:
            context.log.error(  # noqa: TRY400  # the reason says it all; a trace would hide it
                "no probe is answered: the health server cannot listen",
                reason=explain(error, host, port),
                retry_seconds=self._retry.total_seconds(),
            )
            return None
        self.url = url_of(listener)
        context.log.info("listening", url=self.url)
        return listener

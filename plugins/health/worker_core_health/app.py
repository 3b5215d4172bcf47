"""The HTTP application: four paths, and JSON for whatever else is asked."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST
from quart import Response, make_response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from worker_core_health import answers
from worker_core_health.sharing import NotAnswered, Shared

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from worker_core.health import WorkerStatus
    from worker_core_health.settings import HealthSettings

__all__ = ["build_app"]

_FRESH = timedelta(milliseconds=500)
"""How old an answer may be that is given again."""
_SLACK = timedelta(milliseconds=50)
"""What parts that do not keep to their time are allowed on top; then a probe is answered."""
_LARGEST_BODY = 16 * 1024
"""Bytes of a request; none of them needs any."""


def build_app(status: WorkerStatus, settings: HealthSettings, tasks: TaskGroup) -> QuartTrio:
    """Return the application; what it asks of the worker runs in `tasks`."""
    app = QuartTrio("worker_core_health", static_folder=None)
    # Quart's own would start a thread wherever nobody has configured logging.
    app.logger = logging.getLogger("worker_core_health")
    app.config["MAX_CONTENT_LENGTH"] = _LARGEST_BODY
    app.register_error_handler(HTTPException, _in_json)
    _add_probes(app, status, settings, tasks)
    if settings.metrics:
        _add_metrics(app, status, settings, tasks)
    return app


def _add_probes(
    app: QuartTrio, status: WorkerStatus, settings: HealthSettings, tasks: TaskGroup
) -> None:
    checks = Shared(
        partial(status.check_health, within=settings.probe_timeout),
        tasks=tasks,
        within=settings.probe_timeout + _SLACK,
        keep=_FRESH,
    )

    @app.get("/health")
    async def health() -> Response:
        return await _response(answers.health(status))

    @app.get("/health/live")
    async def live() -> Response:
        return await _response(answers.live(status))

    @app.get("/health/ready")
    async def ready() -> Response:
        try:
            results = await checks.answer()
        except NotAnswered as error:
            return await _response(answers.not_ready(status, str(error)))
        return await _response(answers.ready(status, results))


def _add_metrics(
    app: QuartTrio, status: WorkerStatus, settings: HealthSettings, tasks: TaskGroup
) -> None:
    metrics = Shared(
        partial(status.metrics, within=settings.probe_timeout),
        tasks=tasks,
        within=settings.probe_timeout + _SLACK,
        keep=_FRESH,
    )

    @app.get("/metrics")
    async def scrape() -> Response:
        try:
            text = await metrics.answer()
        except NotAnswered as error:
            return await _response(({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE))
        return Response(text, content_type=CONTENT_TYPE_LATEST)


async def _response(answer: answers.Answer) -> Response:
    body, code = answer
    return await _json(body, code, {})


async def _in_json(error: HTTPException) -> Response:
    code = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    # Its headers are kept: a 405 says what is allowed.
    return await _json({"error": error.name}, code, dict(error.get_headers()))


async def _json(body: dict[str, object], code: int, headers: dict[str, str]) -> Response:
    headers = {**headers, "Content-Type": "application/json"}
    response = await make_response(json.dumps(body), code, headers)
    assert isinstance(response, Response)
    return response

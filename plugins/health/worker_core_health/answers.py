"""What each probe is answered. Pure, but for the clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

from worker_core.health import WorkerPhase

if TYPE_CHECKING:
    from worker_core.health import CheckResult, WorkerStatus

__all__ = ["Answer", "health", "live", "not_ready", "ready"]

Answer: TypeAlias = tuple[dict[str, object], HTTPStatus]


def health(status: WorkerStatus) -> Answer:
    """Say who this is."""
    return {
        "status": "healthy",
        **_now(),
        **_uptime(status),
        "workerId": status.worker_id,
        "version": status.version,
    }, HTTPStatus.OK


def live(status: WorkerStatus) -> Answer:
    """Say whether the process should be left alone, or else why not."""
    reason = status.frozen_reason
    body = {
        "status": "alive" if reason is None else "frozen",
        **_now(),
        **_uptime(status),
        "workerId": status.worker_id,
    }
    if reason is None:
        return body, HTTPStatus.OK
    return {**body, "reason": reason}, HTTPStatus.SERVICE_UNAVAILABLE


def ready(status: WorkerStatus, results: Sequence[CheckResult]) -> Answer:
    """Say whether jobs are being run, or else what is in the way."""
    reasons = {result.name: result.reason for result in results if result.reason is not None}
    # The results may be a moment old, and a drain must show at once.
    not_taking = _why_none_are_taken(status.phase)
    if not_taking is not None:
        reasons.setdefault("queue", not_taking)
    names = dict.fromkeys([*(result.name for result in results), *reasons])
    services = {name: "unhealthy" if name in reasons else "healthy" for name in names}
    body: dict[str, object] = {
        "status": "not_ready" if reasons else "ready",
        **_now(),
        "workerId": status.worker_id,
        "services": services,
    }
    if not reasons:
        return body, HTTPStatus.OK
    return {**body, "reasons": reasons}, HTTPStatus.SERVICE_UNAVAILABLE


def not_ready(status: WorkerStatus, reason: str) -> Answer:
    """Say that nobody knows how the worker's parts are."""
    return {
        "status": "not_ready",
        **_now(),
        "workerId": status.worker_id,
        "services": {"worker": "unhealthy"},
        "reasons": {"worker": reason},
    }, HTTPStatus.SERVICE_UNAVAILABLE


def _why_none_are_taken(phase: WorkerPhase) -> str | None:
    match phase:
        case WorkerPhase.RUNNING:
            return None
        case WorkerPhase.STARTING | WorkerPhase.DRAINING:
            return f"no job is taken: the worker is {phase.value}"


def _now() -> dict[str, object]:
    # As JavaScript writes it, for that is who reads it most.
    text = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"timestamp": text.replace("+00:00", "Z")}


def _uptime(status: WorkerStatus) -> dict[str, object]:
    return {"uptime": round(status.uptime.total_seconds(), 3)}

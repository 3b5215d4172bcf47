"""A job's data on its way to its job type: the request, and the clock that it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker_core.errors import InvalidRequest
from worker_core.structure import InvalidData, structure, unknown_members

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core._runtime.scope import JobScope
    from worker_core.job import JobType

__all__ = ["read_request", "start_clock"]

_WARNINGS = 20
"""How many unknown members are named; a producer's mistake must not swell every result."""


def read_request(data: object, shape: type[Any], warn: Callable[[str], None]) -> object:
    """Return the request; raises `InvalidRequest`. A member that nobody reads becomes a warning."""
    try:
        request: object = structure(data, shape)
    except InvalidData as error:
        raise InvalidRequest(error.faults) from None
    unknown = unknown_members(data, shape)
    for name in unknown[:_WARNINGS]:
        warn(f"unknown member {name[:80]!r} was ignored")
    if len(unknown) > _WARNINGS:
        warn(f"and {len(unknown) - _WARNINGS} more unknown members")
    return request


def start_clock(job_type: JobType[Any], scope: JobScope, request: object) -> None:
    """Start the clock of a run: the type's time, or less where the request asks for less."""
    limits = [limit for limit in (job_type.timeout, job_type.timeout_of(request)) if limit]
    if limits:
        scope.limit(min(limits).total_seconds())

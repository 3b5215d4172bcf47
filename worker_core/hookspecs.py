"""Every hook, grouped by the phase of a worker's life in which it is called.

Hooks are synchronous and cheap; they return objects whose methods are async. Implementations are
called in the order in which the configuration enables the plugins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker_core.backoff import BackoffStrategy
    from worker_core.engine import Engine
    from worker_core.fallback import Fallback
    from worker_core.health import HealthCheck
    from worker_core.job import JobEvent, JobType
    from worker_core.service import Service

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "worker_core"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method of a plugin class as the implementation of the hook with its name."""


# --- Start: once, after every enabled plugin is built, before any connection is opened ---


@hookspec
def worker_core_engines() -> Sequence[Engine]:  # type: ignore[empty-body]  # a specification
    """Return engines; `[worker] engine` says which one runs the models."""


@hookspec
def worker_core_job_types() -> Sequence[JobType[object]]:  # type: ignore[empty-body]  # a specification
    """Return job types; their names and queues must be unique among all enabled plugins."""


@hookspec
def worker_core_fallbacks() -> Sequence[Fallback]:  # type: ignore[empty-body]  # a specification
    """Return fallback strategies, asked when an engine call has failed; `[worker] fallbacks` may order them."""


@hookspec
def worker_core_services() -> Sequence[Service]:  # type: ignore[empty-body]  # a specification
    """Return services: long-lived tasks that run beside the jobs, restarted when they crash."""


@hookspec
def worker_core_health_checks() -> Sequence[HealthCheck]:  # type: ignore[empty-body]  # a specification
    """Return readiness checks; asked whenever somebody asks whether the worker is ready."""


@hookspec
def worker_core_backoff_strategies() -> Sequence[BackoffStrategy]:  # type: ignore[empty-body]  # a specification
    """Return backoff strategies, asked when a job of theirs has failed and has attempts left."""


# --- Running: at each step of a job's life ---


@hookspec
def worker_core_job_event(event: JobEvent) -> None:
    """Observe a step of a job's life; called in the job's own task, so it must not block."""

"""What the suite has to show, by name: BullMQ's own tests worth matching, and what users report.

A test says by `@peer(...)` or `@symptom(...)` which of them it is; the report lists every name, and
a name without a test is a failure (test_reference.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

__all__ = ["PEER_TESTS", "SYMPTOMS", "peer", "symptom"]

Test = TypeVar("Test", bound=Callable[..., Any])

PEER_TESTS = (
    "sets processedBy",
    "completes after close is called",
    "close resolves despite delayed errors",
    "recovers from a block that never settles",
    "a standard job is not held back by a delayed one",
    "priority order",
    "locks are extended during close",
    "jitter bounds",
    "retries exhausted with attempts=1",
    "unrecoverable skips retries",
    "maxStartedAttempts fails",
    "custom backoff -1",
    "deferred failure on the next fetch",
    "moveToActive calls = concurrency + 1 when idle",
    "a lost lock gives its message",
    "a stolen lock gives its message",
    "a finished id leaves the stalled set",
    "over-limit stalls fail",
    "a stalled child fails its parent",
    "dynamic limit",
    "delayed promoted while limited",
    "drained emitted once",
    "same-timestamp FIFO",
    "survives deleted markers",
    "returnvalue deserialised",
    "retries trim the stream",
    "completing with pending children fails",
    "stalled scheduler jobs go on",
    "deduplication keep-last requeues only after retries",
    "workers are listed with their names",
)
"""Tests of BullMQ's own suite that a worker in its place has to match."""

SYMPTOMS = (
    "stops after the connection is reset",
    "READONLY on failover",
    "CROSSSLOT",
    "lock lost while closing",
    "close never ends",
    "failure during close leaves the job active",
    "could not renew lock",
    "idle busy spin",
    "limiter + concurrency stuck",
    "priority ignored or starved",
    "scheduler stops",
    "missed completed events",
    "memory grows despite removeOnComplete",
)
"""What users of BullMQ workers report; each is provoked here, and must not show."""


def peer(name: str) -> Callable[[Test], Test]:
    """Say that a test is the one of BullMQ's suite with this name, written for our worker."""
    return _named(pytest.mark.peer, name, PEER_TESTS)


def symptom(name: str) -> Callable[[Test], Test]:
    """Say that a test provokes what users report under this name."""
    return _named(pytest.mark.symptom, name, SYMPTOMS)


def _named(mark: pytest.MarkDecorator, name: str, known: tuple[str, ...]) -> Callable[[Test], Test]:
    if name not in known:
        raise ValueError(f"{name!r} is not a name of the reference list (reference.py)")
    decorate: Callable[[Test], Test] = mark(name)
    return decorate

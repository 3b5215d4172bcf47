"""Whose failure it is."""

from __future__ import annotations

import pytest
from worker_core_batch.failures import Interruption, OwnFailure, verdict_on

from worker_core import EngineError, FailureClass, Fault, InvalidRequest, Unrecoverable
from worker_core.errors import DeadlineExceeded, RedisUnavailable

PASSING = {FailureClass.BUSY, FailureClass.UNREACHABLE, FailureClass.CIRCUIT_OPEN}


@pytest.mark.parametrize("failure", FailureClass)
def test_failures_of_the_engine(failure: FailureClass) -> None:
    error = EngineError(failure, "words")
    if failure in PASSING:
        assert verdict_on(error) == Interruption(error, may_pass=True)
    elif failure is FailureClass.UNAUTHORIZED:
        assert verdict_on(error) == Interruption(error, may_pass=False)
    else:
        assert verdict_on(error) == OwnFailure(failure.value, "words")


@pytest.mark.parametrize(
    ("error", "failure", "message"),
    [
        (InvalidRequest([Fault("a", "b")]), "invalid_request", "invalid request: a: b"),
        (DeadlineExceeded("late"), "deadline", "late"),
        (Unrecoverable("no"), "error", "no"),
        (ValueError(), "error", "ValueError"),
        (ValueError("x" * 10_000), "error", "x" * 2000),
    ],
)
def test_an_items_own_failures(error: Exception, failure: str, message: str) -> None:
    assert verdict_on(error) == OwnFailure(failure, message)


def test_an_outage_of_redis_is_no_items_failure() -> None:
    error = RedisUnavailable("gone")
    assert verdict_on(error) == Interruption(error, may_pass=True)

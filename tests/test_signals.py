"""What a job type raises to be run again later."""

from __future__ import annotations

from datetime import timedelta

import pytest

from worker_core import BackoffStrategy, DelayJob, JobSignal, RateLimit, RateLimited
from worker_core.errors import JobError
from worker_core.signals import GiveBack, WaitForChildren


@pytest.mark.parametrize("wrong", [timedelta(seconds=-1), timedelta(days=4000)])
def test_a_delay_that_bullmq_cannot_keep_is_refused(wrong: timedelta) -> None:
    with pytest.raises(ValueError, match="ten years"):
        DelayJob(wrong)


@pytest.mark.parametrize("wrong", [timedelta(), timedelta(microseconds=9), timedelta(days=4000)])
def test_a_limit_that_redis_cannot_keep_is_refused(wrong: timedelta) -> None:
    with pytest.raises(ValueError, match="from a millisecond"):
        RateLimited(wrong)


def test_a_signal_is_no_failure() -> None:
    signals = (
        DelayJob(timedelta(minutes=1)),
        GiveBack(),
        WaitForChildren(),
        RateLimited(timedelta(seconds=1)),
    )
    for signal in signals:
        assert isinstance(signal, JobSignal)
        assert not isinstance(signal, JobError)
        assert str(signal)


@pytest.mark.parametrize("name", ["", "fixed", "exponential"])
def test_a_strategy_has_a_name_of_its_own(name: str) -> None:
    with pytest.raises(ValueError, match="backoff strategy"):
        BackoffStrategy(name, lambda _: None)


@pytest.mark.parametrize(
    ("most", "duration"),
    [(0, timedelta(seconds=1)), (1, timedelta()), (1, timedelta(days=400))],
)
def test_a_limit_that_limits_nothing_is_refused(most: int, duration: timedelta) -> None:
    with pytest.raises(ValueError, match="must be"):
        RateLimit(max=most, duration=duration)

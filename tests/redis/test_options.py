"""Backoff and bounds."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_core.redis import Backoff, LinkOptions


@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_a_delay_lies_between_nothing_and_the_ceiling(failures: int, random: Random) -> None:
    backoff = Backoff(initial=0.1, factor=3, maximum=5)
    assert 0 <= backoff.delay(failures, random) <= backoff.ceiling(failures) <= 5


def test_the_ceiling_grows_to_the_maximum_and_stays() -> None:
    backoff = Backoff(initial=0.5, factor=2, maximum=3)
    assert [backoff.ceiling(failures) for failures in range(5)] == [0.5, 1, 2, 3, 3]
    assert Backoff(factor=100).ceiling(10**9) == 2.0


def test_the_jitter_is_full() -> None:
    random = Random(1)
    delays = [Backoff(initial=1).delay(0, random) for _ in range(1000)]
    assert min(delays) < 0.05
    assert max(delays) > 0.95
    assert 0.45 < sum(delays) / 1000 < 0.55


def test_senseless_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="connect_timeout"):
        LinkOptions(connect_timeout=0)
    with pytest.raises(ValueError, match="reply_timeout"):
        LinkOptions(reply_timeout=-1)
    with pytest.raises(ValueError, match="ping_interval"):
        LinkOptions(ping_interval=0)
    with pytest.raises(ValueError, match="max_queued_calls"):
        LinkOptions(max_queued_calls=0)

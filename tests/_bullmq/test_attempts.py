"""Whether a failed job is tried again, and when: BullMQ's rule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_core._bullmq.attempts import GiveUp, NextStep, RetryAfter, next_step
from worker_core._bullmq.job import Backoff, JobOptions, StoredJob

LONGEST_MS = 10 * 365 * 24 * 3600 * 1000


def step(
    backoff: Backoff | None = None,
    *,
    made: int = 0,
    attempts: int = 10**6,
    retryable: bool = True,
    random: float = 0.0,
) -> NextStep:
    job = StoredJob(
        id="1", attempts_made=made, options=JobOptions(attempts=attempts, backoff=backoff)
    )
    return next_step(job, retryable=retryable, random=lambda: random)


@pytest.mark.parametrize(
    ("made", "attempts", "again"),
    [(0, 0, False), (0, 1, False), (0, 2, True), (1, 2, False), (1, 3, True), (5, 3, False)],
)
def test_a_job_is_tried_again_while_attempts_are_left(
    made: int, attempts: int, again: bool
) -> None:
    assert step(made=made, attempts=attempts) == (RetryAfter(0) if again else GiveUp())


@pytest.mark.parametrize(
    ("started", "most", "again"), [(1, None, True), (1, 2, True), (2, 2, False), (3, 2, False)]
)
def test_a_job_that_was_started_as_often_as_allowed_is_not_tried_again(
    started: int, most: int | None, again: bool
) -> None:
    job = StoredJob(id="1", attempts_started=started, options=JobOptions(attempts=10))
    next_one = next_step(job, retryable=True, random=lambda: 0.0, max_started=most)
    assert next_one == (RetryAfter(0) if again else GiveUp())


def test_an_error_that_forbids_a_retry_ends_it_whatever_is_left() -> None:
    assert step(Backoff("fixed", 10), retryable=False) == GiveUp()


def test_a_fixed_backoff_is_the_same_each_time() -> None:
    assert [step(Backoff("fixed", 250), made=made) for made in range(3)] == [RetryAfter(250)] * 3


def test_an_exponential_backoff_doubles_and_counts_the_attempt_that_failed() -> None:
    backoff = Backoff("exponential", 100)
    delays = [step(backoff, made=made) for made in range(4)]
    assert delays == [RetryAfter(ms) for ms in (100, 200, 400, 800)]


def test_an_unknown_type_fails_the_job_and_says_which() -> None:
    given_up = step(Backoff("cubic"))
    assert isinstance(given_up, GiveUp)
    assert (
        given_up.because == "unknown backoff type 'cubic': use 'fixed', 'exponential' or a plugin's"
    )


def test_the_name_of_an_unknown_type_is_cut() -> None:
    given_up = step(Backoff("x" * 10_000))
    assert isinstance(given_up, GiveUp)
    assert len(given_up.because or "") < 120


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RetryAfter(70), RetryAfter(70)),
        (RetryAfter(10**30), RetryAfter(LONGEST_MS)),
        (GiveUp("because"), GiveUp("because")),
    ],
)
def test_a_type_that_is_not_bullmqs_own_is_asked_for_elsewhere(
    answer: NextStep, expected: NextStep
) -> None:
    asked = []

    def custom(backoff: Backoff) -> NextStep | None:
        asked.append(backoff)
        return answer

    backoff = Backoff("cubic", 7)
    job = StoredJob(id="1", options=JobOptions(attempts=3, backoff=backoff))
    assert next_step(job, retryable=True, random=lambda: 0.0, custom=custom) == expected
    assert asked == [backoff]


@pytest.mark.parametrize("kind", ["fixed", "exponential"])
def test_bullmqs_own_types_are_not_asked_for_elsewhere(kind: str) -> None:
    def custom(_: Backoff) -> NextStep | None:
        raise AssertionError

    job = StoredJob(id="1", options=JobOptions(attempts=3, backoff=Backoff(kind, 5)))
    assert next_step(job, retryable=True, random=lambda: 0.0, custom=custom) == RetryAfter(5)


def test_minus_one_means_fail_for_good() -> None:
    assert step(Backoff("fixed", -1)) == GiveUp()


@pytest.mark.parametrize("jitter", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("made", [0, 5, 1022, 1100, 2**62])
@pytest.mark.parametrize("delay", [1e300, 2**63, 1e18])
@pytest.mark.parametrize("kind", ["fixed", "exponential"])
@pytest.mark.parametrize("random", [0.0, 0.999])
def test_a_delay_beyond_what_bullmq_keeps_is_cut_to_it(
    jitter: float, made: int, delay: float, kind: str, random: float
) -> None:
    answer = step(Backoff(kind, delay, jitter), made=made, attempts=2**63, random=random)
    assert isinstance(answer, RetryAfter)
    assert 0 <= answer.delay_ms <= LONGEST_MS


def bullmqs_rule(backoff: Backoff, attempts_made: int, random: float) -> float:
    """`backoffs.ts` of BullMQ, word for word."""
    longest = (
        backoff.delay
        if backoff.type == "fixed"
        else math.floor(2.0 ** (attempts_made - 1) * backoff.delay + 0.5)
    )
    if backoff.jitter > 0:
        shortest = longest * (1 - backoff.jitter)
        return math.floor(random * longest * backoff.jitter + shortest)
    return longest


@settings(deadline=None)
@given(
    kind=st.sampled_from(["fixed", "exponential"]),
    delay=st.integers(0, 10**6) | st.floats(0, 10**6),
    jitter=st.floats(0, 1),
    made=st.integers(0, 15),  # more would reach the longest delay that is kept
    attempts=st.integers(0, 20),
    random=st.floats(0, 1, exclude_max=True),
)
def test_the_step_is_the_one_that_bullmq_takes(
    kind: str, delay: float, jitter: float, made: int, attempts: int, random: float
) -> None:
    backoff = Backoff(kind, delay, jitter)
    answer = step(backoff, made=made, attempts=attempts, random=random)
    if made + 1 >= attempts:
        assert answer == GiveUp()
    else:
        # BullMQ keeps whole milliseconds; what is under one is no delay.
        assert answer == RetryAfter(int(bullmqs_rule(backoff, made + 1, random)))


@settings(deadline=None)
@given(
    delay=st.integers(1, 10**6),
    jitter=st.floats(0.01, 1),
    made=st.integers(0, 10),
    random=st.floats(0, 1, exclude_max=True),
)
def test_jitter_takes_off_no_more_than_its_share(
    delay: int, jitter: float, made: int, random: float
) -> None:
    answer = step(Backoff("exponential", delay, jitter), made=made, random=random)
    longest = 2**made * delay
    assert isinstance(answer, RetryAfter)
    assert math.floor(longest * (1 - jitter)) <= answer.delay_ms <= longest

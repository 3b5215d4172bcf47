"""Jobs whose engine may not be asked: for how long they are put back, and when nothing is claimed."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from worker_core._bullmq.job import StoredJob
from worker_core._runtime.put_back import ClaimPause, put_back
from worker_core._runtime.verdict import Failed, PutBack
from worker_core.errors import CircuitOpen

HOUR = timedelta(hours=1)
NOW = 1_800_000_000_000


def refused(seconds: float, circuit: str = "host") -> CircuitOpen:
    return CircuitOpen("no", circuit=circuit, retry_after=timedelta(seconds=seconds))


def put_off(since_ms: int | None) -> StoredJob:
    return StoredJob(id="7", put_off_since_ms=since_ms)


@given(
    retry_after=st.floats(0, 400),
    waited=st.none() | st.integers(-60_000, 2 * 3_600_000),
    longest=st.integers(0, 3_600_000),
)
def test_a_job_comes_again_when_the_circuit_may_close_and_never_waits_for_longer_than_it_may(
    retry_after: float, waited: int | None, longest: int
) -> None:
    error = refused(retry_after)
    job = put_off(None if waited is None else NOW - waited)
    verdict = put_back(error, job, longest=timedelta(milliseconds=longest), now_ms=NOW)
    left = longest - max(waited or 0, 0)
    if left <= 0:
        assert verdict == Failed(error)
        return
    assert isinstance(verdict, PutBack)
    assert verdict.error is error
    # A clock that was set back must not make it wait for ever.
    assert verdict.since_ms == NOW - max(waited or 0, 0)
    wished = retry_after * 1000
    assert min(wished, left) - 1 <= verdict.delay_ms <= min(wished + max(1000, wished / 10), left)


def test_nothing_is_claimed_after_three_jobs_in_a_row_until_the_earliest_circuit_may_close() -> (
    None
):
    pause = ClaimPause(lambda: 0)
    for number, seconds in enumerate((30, 10)):
        pause.note_put_back(refused(seconds), now=number)
    assert pause.until == 0
    pause.note_put_back(refused(20), now=2)
    assert pause.until == 11
    # Those that were claimed before it go on with the row.
    pause.note_put_back(refused(20), now=3)
    assert pause.until == 11
    pause.note_put_back(refused(20), now=15)
    assert pause.until == 22


def test_any_other_end_begins_the_row_anew() -> None:
    pause = ClaimPause(lambda: 0)
    for _ in range(2):
        pause.note_put_back(refused(10), now=0)
    pause.note_other()
    for _ in range(2):
        pause.note_put_back(refused(10), now=0)
    assert pause.until == 0
    pause.note_put_back(refused(10), now=0)
    assert pause.until == 10
    pause.note_other()
    assert pause.until == 0


def test_when_a_circuit_closes_jobs_are_claimed_again() -> None:
    closings = 0
    pause = ClaimPause(lambda: closings)
    for _ in range(3):
        pause.note_put_back(refused(10), now=0)
    assert pause.until == 10
    closings = 1
    assert pause.until == 0
    for _ in range(2):
        pause.note_put_back(refused(10), now=1)
    assert pause.until == 0
    pause.note_put_back(refused(10), now=1)
    assert pause.until == 11


def test_where_only_a_model_is_kept_away_from_jobs_are_claimed_on_slowly() -> None:
    pause = ClaimPause(lambda: 0)
    for _ in range(3):
        pause.note_put_back(refused(300, "chat:llama3"), now=0)
    assert pause.until == 0.5

"""Writing down how a run ended, once, whatever becomes of the replies."""

from __future__ import annotations

import enum
import functools
import json
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import anyio
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests._runtime.support import run_virtual
from worker_core._bullmq.calls import ClaimOptions
from worker_core._bullmq.job import Backoff, JobOptions, StoredJob
from worker_core._bullmq.replies import STILL_OWNED, Finished, Nothing, Refusal, Settled
from worker_core._runtime.backoffs import Backoffs
from worker_core._runtime.context import view_of
from worker_core._runtime.settlement import Announce, Settler
from worker_core._runtime.verdict import (
    Cancelled,
    Completed,
    Delayed,
    Failed,
    HeldBack,
    LargeResult,
    Lost,
    PutBack,
    Returned,
    Settlement,
    Verdict,
    WaitsForChildren,
)
from worker_core.backoff import BackoffStrategy
from worker_core.errors import (
    CircuitOpen,
    RedisUnavailable,
    ReplyError,
    ReplyLost,
    Unrecoverable,
)
from worker_core.job import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core._bullmq.calls import Failure, Finish

T = TypeVar("T")

TOKEN = "w:1"
JOB = StoredJob(id="7", attempts_made=1, options=JobOptions(attempts=3))
NEXT = StoredJob(id="8")


class Fate(enum.Enum):
    """What becomes of one call."""

    GOOD = "answered"
    UNRUN = "sent, not run, not answered"
    RUN = "sent, run, not answered"
    LATE = "sent, not answered, and run after the next call: it was in the server's buffer"
    REFUSED = "answered with an error, not run"
    HALF = "answered with an error by a script that failed after its work, fetching the next job"
    AWAY = "not sent: no connection"
    STOLEN = "answered, but before it the lock ran out and another worker took the job"


@attrs.define(eq=False)
class ModelQueue:
    """Stands for the queue: a plain model of what the scripts do, and of what the network does."""

    fates: list[Fate] = attrs.field(factory=list)
    lock: str | None = TOKEN
    exists: bool = True
    finished_on_ms: int | None = None
    history: bytes = b""
    attempts_made: int = JOB.attempts_made
    waiting: list[StoredJob] = attrs.field(factory=list)
    owned: dict[str, StoredJob] = attrs.field(factory=dict)
    removes_finished: bool = False
    children: Refusal | None = None
    written: list[str] = attrs.field(factory=list)
    """The writes that counted."""
    calls: list[str] = attrs.field(factory=list)
    endings: list[Finish] = attrs.field(factory=list)
    failures: list[Failure] = attrs.field(factory=list)
    stored: dict[str, tuple[bytes, int]] = attrs.field(factory=dict)
    limits: list[int] = attrs.field(factory=list)
    late: list[Callable[[], object]] = attrs.field(factory=list)
    options: ClaimOptions = ClaimOptions(worker="w", lock_ms=30_000)  # noqa: RUF009  # frozen

    @property
    def link(self) -> ModelQueue:
        return self

    async def _call(self, name: str, run: Callable[[], T]) -> T:
        self.calls.append(name)
        await anyio.sleep(0)
        fate = self.fates.pop(0) if self.fates else Fate.GOOD
        late, self.late = self.late, []
        try:
            match fate:
                case Fate.GOOD:
                    return run()
                case Fate.UNRUN:
                    raise ReplyLost("lost")
                case Fate.RUN:
                    run()
                    raise ReplyLost("lost")
                case Fate.LATE:
                    self.late.append(run)
                    raise ReplyLost("lost")
                case Fate.REFUSED:
                    raise ReplyError("OOM command not allowed")
                case Fate.HALF:
                    waiting, self.waiting = self.waiting, []
                    run()
                    self.waiting = waiting
                    raise ReplyError("ERR user_script:12: attempt to index a nil value")
                case Fate.AWAY:
                    raise RedisUnavailable("away")
                case Fate.STOLEN:
                    if self.lock == TOKEN:
                        self.lock = "another"
                    return run()
        finally:
            for run_late in late:
                run_late()

    def _refusal(self) -> Refusal | None:
        if not self.exists:
            return Refusal.JOB_GONE
        if self.lock is None:
            return Refusal.LOCK_GONE
        return None if self.lock == TOKEN else Refusal.LOCK_STOLEN

    async def finish(
        self, job: StoredJob, token: str, ending: Finish, *, fetch_next: bool
    ) -> Finished | Refusal:
        def run() -> Finished | Refusal:
            if refusal := self._refusal():
                return refusal
            if ending.completed and self.children:
                return self.children
            self.written.append("completed" if ending.completed else "failed")
            self.lock, self.finished_on_ms = None, ending.at_ms
            self.history = ending.history or self.history
            self.exists = not self.removes_finished
            if fetch_next and self.waiting:
                self.owned[token] = self.waiting.pop(0)
                return Finished(self.owned[token])
            return Finished(Nothing())

        self.endings.append(ending)
        return await self._call("finish", run)

    async def retry(
        self, job: StoredJob, token: str, failure: Failure, *, delay_ms: int
    ) -> Refusal | None:
        def run() -> Refusal | None:
            if refusal := self._refusal():
                return refusal
            self.written.append(f"retried in {delay_ms}")
            self.lock, self.attempts_made = None, self.attempts_made + 1
            self.history = failure.history or self.history
            return None

        self.failures.append(failure)
        return await self._call("retry", run)

    async def give_back(self, job: StoredJob, token: str) -> Refusal | None:
        def run() -> Refusal | None:
            if refusal := self._refusal():
                return refusal
            self.written.append("returned")
            self.lock = None
            return None

        return await self._call("give back", run)

    async def delay(
        self, job: StoredJob, token: str, delay_ms: int, *, put_off_since_ms: int | None = None
    ) -> Refusal | None:
        def run() -> Refusal | None:
            if refusal := self._refusal():
                return refusal
            since = "" if put_off_since_ms is None else f", put off since {put_off_since_ms}"
            self.written.append(f"delayed by {delay_ms}{since}")
            self.lock = None
            return None

        return await self._call("delay", run)

    async def wait_for_children(self, job: StoredJob, token: str) -> Refusal | None:
        def run() -> Refusal | None:
            # The script looks at the children before it looks at the lock.
            if self.exists and self.children:
                return self.children
            if refusal := self._refusal():
                return refusal
            self.written.append("waits")
            self.lock = None
            return None

        return await self._call("wait", run)

    async def hold_back(self, limit_ms: int) -> None:
        def run() -> None:
            self.limits.append(limit_ms)

        await self._call("hold back", run)

    async def settled(self, job: StoredJob, token: str) -> Settled:
        def run() -> Settled:
            if self.lock == token:
                return STILL_OWNED
            return Settled(
                exists=self.exists,
                finished_on_ms=self.finished_on_ms,
                attempts_made=self.attempts_made if self.exists else 0,
            )

        return await self._call("ask", run)

    async def owned_by(self, token: str) -> StoredJob | None:
        return await self._call("owned", lambda: self.owned.get(token))

    async def call(self, command: str, key: str, value: bytes, px: str, ttl_ms: int) -> object:
        assert (command, px) == ("SET", "PX")

        def run() -> bytes:
            self.stored[key] = (value, ttl_ms)
            return b"OK"

        return await self._call("store", run)


LINEAR = BackoffStrategy("linear", lambda attempt: attempt.number * attempt.delay)


async def settle(
    queue: ModelQueue,
    verdict: Verdict,
    *,
    job: StoredJob = JOB,
    may_fetch: bool = True,
    announce: Announce = lambda _, __: None,
) -> Settlement:
    view = functools.partial(view_of, queue="q", job_type="t")
    backoffs = Backoffs({"linear": LINEAR}, view)
    settler = Settler(queue, lambda: may_fetch, backoffs=backoffs)  # type: ignore[arg-type]  # stands for the queue
    with capture_logs():
        return await settler.settle(job, TOKEN, verdict, announce)


GOOD = Completed(b'{"a":1}')
BAD = Failed(ValueError("bad"))
FINAL = Failed(Unrecoverable("enough"))
REFUSED = CircuitOpen("no", circuit="host", retry_after=timedelta(seconds=9))
PUT_BACK = PutBack(REFUSED, 60, 1234)


# --- When every call is answered ---


async def test_an_answer_is_completed_and_brings_the_next_job() -> None:
    queue = ModelQueue(waiting=[NEXT])
    assert await settle(queue, GOOD) == Settlement(Outcome.COMPLETED, NEXT)
    assert queue.written == ["completed"]
    assert (queue.endings[0].value, queue.endings[0].stacktrace) == (b'{"a":1}', None)


async def test_a_cancelled_job_fails_without_another_attempt() -> None:
    queue = ModelQueue(waiting=[NEXT])
    assert await settle(queue, Cancelled()) == Settlement(Outcome.CANCELLED, NEXT)
    [ending] = queue.endings
    # The traces of earlier attempts stay as they are.
    assert (ending.completed, ending.value, ending.stacktrace) == (False, b"cancelled", None)


@pytest.mark.parametrize(
    ("verdict", "announced"),
    [
        (GOOD, [(Outcome.COMPLETED, None)]),
        (BAD, [(Outcome.RETRIED, b"ValueError: bad")]),
        (FINAL, [(Outcome.FAILED, b"enough")]),
        (Cancelled(), [(Outcome.CANCELLED, b"cancelled")]),
        (Returned(), [(Outcome.RETURNED, None)]),
        (Delayed(50), [(Outcome.DELAYED, None)]),
        (PUT_BACK, [(Outcome.DELAYED, None)]),
        (WaitsForChildren(), [(Outcome.WAITING_CHILDREN, None)]),
        (HeldBack(50), [(Outcome.RATE_LIMITED, None)]),
        (Lost(), []),
    ],
)
async def test_the_outcome_is_announced_before_it_is_written_and_once(
    verdict: Verdict, announced: list[tuple[Outcome, bytes | None]]
) -> None:
    queue = ModelQueue()
    told: list[tuple[Outcome, bytes | None]] = []

    def announce(outcome: Outcome, reason: bytes | None) -> None:
        assert queue.calls == []
        told.append((outcome, reason))

    settlement = await settle(queue, verdict, announce=announce)
    assert told == announced
    assert [outcome for outcome, _ in told] in ([], [settlement.outcome])


@pytest.mark.parametrize("fate", [Fate.UNRUN, Fate.RUN])
@pytest.mark.parametrize(
    ("verdict", "announced"),
    [
        (GOOD, (Outcome.COMPLETED, None)),
        (FINAL, (Outcome.FAILED, b"enough")),
        (Cancelled(), (Outcome.CANCELLED, b"cancelled")),
    ],
)
async def test_what_was_lost_together_with_a_finish_is_announced_again(
    verdict: Verdict, announced: tuple[Outcome, bytes | None], fate: Fate
) -> None:
    queue = ModelQueue(fates=[fate])
    told: list[tuple[Outcome, bytes | None]] = []
    await settle(queue, verdict, announce=lambda *one: told.append(one))
    assert told == [announced] * (2 if fate is Fate.UNRUN else 1)


async def test_an_answer_that_cannot_be_completed_is_announced_as_what_it_becomes() -> None:
    told: list[Outcome] = []
    queue = ModelQueue(children=Refusal.FAILED_CHILDREN)
    await settle(queue, GOOD, announce=lambda outcome, _: told.append(outcome))
    assert told == [Outcome.COMPLETED, Outcome.FAILED]


async def test_nothing_is_brought_along_while_draining() -> None:
    queue = ModelQueue(waiting=[NEXT])
    assert await settle(queue, GOOD, may_fetch=False) == Settlement(Outcome.COMPLETED)
    assert queue.owned == {}


async def test_a_failure_with_attempts_left_is_retried() -> None:
    queue = ModelQueue()
    assert await settle(queue, BAD) == Settlement(Outcome.RETRIED)
    assert queue.written == ["retried in 0"]
    assert queue.failures[0].reason == b"ValueError: bad"
    assert "ValueError: bad" in json.loads(queue.failures[0].stacktrace)[-1]


async def test_a_retry_waits_as_its_backoff_says() -> None:
    options = JobOptions(attempts=3, backoff=Backoff("exponential", 100))
    queue = ModelQueue()
    await settle(queue, BAD, job=attrs.evolve(JOB, options=options))
    assert queue.written == ["retried in 200"]


@pytest.mark.parametrize(
    ("verdict", "job"), [(FINAL, JOB), (BAD, attrs.evolve(JOB, attempts_made=2))]
)
async def test_a_failure_for_good_brings_the_next_job_too(verdict: Verdict, job: StoredJob) -> None:
    queue = ModelQueue(waiting=[NEXT])
    assert await settle(queue, verdict, job=job) == Settlement(Outcome.FAILED, NEXT)
    assert queue.written == ["failed"]
    assert not queue.endings[0].completed
    assert queue.endings[0].stacktrace is not None


async def test_an_unknown_backoff_fails_the_job_clearly() -> None:
    options = JobOptions(attempts=3, backoff=Backoff("mine", 100))
    queue = ModelQueue()
    settlement = await settle(queue, BAD, job=attrs.evolve(JOB, options=options))
    assert settlement.outcome is Outcome.FAILED
    assert queue.endings[0].value == (
        b"unknown backoff type 'mine': use 'fixed', 'exponential' or a plugin's; "
        b"the attempt failed with: ValueError: bad"
    )


async def test_a_strategy_of_a_plugin_says_how_long_a_retry_waits() -> None:
    options = JobOptions(attempts=3, backoff=Backoff("linear", 70))
    queue = ModelQueue()
    await settle(queue, BAD, job=attrs.evolve(JOB, options=options))
    assert queue.written == ["retried in 140"]


async def test_a_job_that_is_put_off_spends_no_attempt() -> None:
    queue = ModelQueue()
    assert await settle(queue, Delayed(50)) == Settlement(Outcome.DELAYED)
    assert (queue.written, queue.attempts_made) == (["delayed by 50"], JOB.attempts_made)


async def test_a_job_that_is_put_back_spends_no_attempt_and_knows_since_when() -> None:
    queue = ModelQueue()
    assert await settle(queue, PUT_BACK) == Settlement(Outcome.DELAYED)
    written = ["delayed by 60, put off since 1234"]
    assert (queue.written, queue.attempts_made) == (written, JOB.attempts_made)


async def test_a_job_waits_for_its_children() -> None:
    queue = ModelQueue()
    assert await settle(queue, WaitsForChildren()) == Settlement(Outcome.WAITING_CHILDREN)
    assert (queue.written, queue.attempts_made) == (["waits"], JOB.attempts_made)


async def test_a_job_whose_children_have_ended_runs_again_at_once() -> None:
    queue = ModelQueue(children=Refusal.NONE_PENDING)
    assert await settle(queue, WaitsForChildren()) == Settlement(Outcome.WAITING_CHILDREN)
    assert (queue.written, queue.attempts_made) == (["returned"], JOB.attempts_made)


async def test_a_job_that_waits_for_nothing_again_and_again_is_slowed_down() -> None:
    queue = ModelQueue(children=Refusal.NONE_PENDING)
    job = attrs.evolve(JOB, attempts_started=JOB.attempts_made + 11)
    assert await settle(queue, WaitsForChildren(), job=job) == Settlement(Outcome.WAITING_CHILDREN)
    assert queue.written == ["delayed by 1000"]


async def test_a_job_that_waits_for_a_child_that_failed_fails_for_good() -> None:
    queue = ModelQueue(children=Refusal.FAILED_CHILDREN)
    assert (await settle(queue, WaitsForChildren())).outcome is Outcome.FAILED
    assert (
        queue.endings[-1].value
        == b"Cannot complete job 7 because it has at least one failed child. moveToFinished"
    )


async def test_a_rate_limit_is_set_before_the_job_goes_back_and_the_claimer_is_told() -> None:
    queue = ModelQueue()
    limited = Settlement(Outcome.RATE_LIMITED, Nothing(limited_ms=800))
    assert await settle(queue, HeldBack(800)) == limited
    assert queue.calls == ["hold back", "give back"]
    assert (queue.written, queue.limits) == (["returned"], [800])


SENT_BACK = [Returned(), Delayed(50), PUT_BACK, WaitsForChildren(), HeldBack(800)]


async def test_a_returned_job_spends_no_attempt() -> None:
    queue = ModelQueue()
    assert await settle(queue, Returned()) == Settlement(Outcome.RETURNED)
    assert (queue.written, queue.attempts_made) == (["returned"], JOB.attempts_made)


async def test_a_lost_job_is_not_written_for() -> None:
    queue = ModelQueue(lock="another")
    assert await settle(queue, Lost()) == Settlement(Outcome.LOST)
    assert queue.calls == []


@pytest.mark.parametrize("verdict", [GOOD, BAD, FINAL, *SENT_BACK], ids=repr)
@pytest.mark.parametrize("state", [{"lock": None}, {"lock": "another"}, {"exists": False}])
async def test_a_job_that_is_not_ours_any_more_is_lost(
    verdict: Verdict, state: dict[str, object]
) -> None:
    queue = ModelQueue(waiting=[NEXT], **state)  # type: ignore[arg-type]
    assert await settle(queue, verdict) == Settlement(Outcome.LOST)
    moves = [call for call in queue.calls if call != "hold back"]
    assert (queue.written, len(moves)) == ([], 1)


async def test_children_that_are_not_finished_fail_the_attempt() -> None:
    queue = ModelQueue(children=Refusal.PENDING_CHILDREN)
    assert (await settle(queue, GOOD)).outcome is Outcome.RETRIED
    assert b"has pending dependencies" in queue.failures[0].reason


async def test_a_child_that_failed_fails_the_job_for_good() -> None:
    queue = ModelQueue(children=Refusal.FAILED_CHILDREN)
    assert (await settle(queue, GOOD)).outcome is Outcome.FAILED
    assert (
        queue.endings[-1].value
        == b"Cannot complete job 7 because it has at least one failed child. moveToFinished"
    )


async def test_a_large_result_is_stored_before_what_points_to_it() -> None:
    queue = ModelQueue()
    large = LargeResult("bull:q:7:result", b"x" * 10, timedelta(days=1))
    await settle(queue, Completed(b"{}", large))
    assert queue.calls == ["store", "finish"]
    assert queue.stored == {"bull:q:7:result": (b"x" * 10, 86_400_000)}


async def test_storing_a_large_result_is_repeated_until_it_is_answered() -> None:
    queue = ModelQueue(fates=[Fate.UNRUN, Fate.RUN, Fate.REFUSED])
    large = LargeResult("k", b"x", timedelta(days=1))
    assert (await settle(queue, Completed(b"{}", large))).outcome is Outcome.COMPLETED
    assert queue.calls == ["store"] * 4 + ["finish"]


# --- When replies are lost ---


async def test_a_finish_that_did_not_run_is_made_again() -> None:
    queue = ModelQueue(fates=[Fate.UNRUN], waiting=[NEXT])
    assert await settle(queue, GOOD) == Settlement(Outcome.COMPLETED, NEXT)
    assert queue.calls == ["finish", "ask", "finish"]
    assert queue.written == ["completed"]


async def test_a_finish_that_ran_is_recognised_and_what_it_brought_is_found() -> None:
    queue = ModelQueue(fates=[Fate.RUN], waiting=[NEXT])
    assert await settle(queue, GOOD) == Settlement(Outcome.COMPLETED, NEXT)
    assert queue.calls == ["finish", "ask", "owned"]


async def test_a_finish_that_ran_and_removed_the_job_is_recognised() -> None:
    queue = ModelQueue(fates=[Fate.RUN], waiting=[NEXT], removes_finished=True)
    assert await settle(queue, GOOD) == Settlement(Outcome.COMPLETED, NEXT)


async def test_a_finish_that_runs_late_is_recognised_by_the_refusal_of_the_second() -> None:
    queue = ModelQueue(fates=[Fate.LATE], waiting=[NEXT])
    assert await settle(queue, GOOD) == Settlement(Outcome.COMPLETED, NEXT)
    assert queue.calls == ["finish", "ask", "finish", "ask", "owned"]
    assert queue.written == ["completed"]


async def test_the_second_finish_has_the_time_of_the_first_so_that_either_is_recognised() -> None:
    queue = ModelQueue(fates=[Fate.UNRUN, Fate.GOOD, Fate.RUN])
    assert (await settle(queue, GOOD)).outcome is Outcome.COMPLETED
    assert len({ending.at_ms for ending in queue.endings}) == 1


@pytest.mark.parametrize("verdict", [GOOD, BAD, FINAL])
async def test_a_job_taken_by_another_after_a_lost_reply_is_lost(verdict: Verdict) -> None:
    queue = ModelQueue(fates=[Fate.UNRUN, Fate.STOLEN])
    assert await settle(queue, verdict) == Settlement(Outcome.LOST)
    assert queue.written == []


async def test_a_job_finished_by_another_is_not_taken_for_ours() -> None:
    queue = ModelQueue(fates=[Fate.UNRUN], lock=None, finished_on_ms=1)
    assert await settle(queue, GOOD) == Settlement(Outcome.LOST)


@pytest.mark.parametrize(
    ("fate", "calls"),
    [
        (Fate.UNRUN, ["retry", "ask", "retry"]),
        (Fate.RUN, ["retry", "ask"]),
        (Fate.LATE, ["retry", "ask", "retry", "ask"]),
    ],
)
async def test_a_retry_spends_one_attempt_whatever_becomes_of_its_reply(
    fate: Fate, calls: list[str]
) -> None:
    queue = ModelQueue(fates=[fate])
    assert await settle(queue, BAD) == Settlement(Outcome.RETRIED)
    assert queue.calls == calls
    assert queue.attempts_made == JOB.attempts_made + 1


@pytest.mark.parametrize(
    ("fate", "calls"),
    [
        (Fate.UNRUN, ["give back", "ask", "give back"]),
        (Fate.RUN, ["give back", "ask"]),
        (Fate.LATE, ["give back", "ask", "give back", "ask"]),
    ],
)
async def test_a_job_is_given_back_whatever_becomes_of_the_reply(
    fate: Fate, calls: list[str]
) -> None:
    queue = ModelQueue(fates=[fate])
    assert await settle(queue, Returned()) == Settlement(Outcome.RETURNED)
    assert queue.calls == calls
    assert queue.written == ["returned"]


@pytest.mark.parametrize(
    ("verdict", "move", "outcome"),
    [
        (Delayed(50), "delay", Outcome.DELAYED),
        (PUT_BACK, "delay", Outcome.DELAYED),
        (WaitsForChildren(), "wait", Outcome.WAITING_CHILDREN),
    ],
)
@pytest.mark.parametrize("fate", [Fate.UNRUN, Fate.RUN, Fate.LATE])
async def test_a_job_is_moved_once_whatever_becomes_of_the_reply(
    verdict: Verdict, move: str, outcome: Outcome, fate: Fate
) -> None:
    queue = ModelQueue(fates=[fate])
    assert await settle(queue, verdict) == Settlement(outcome)
    assert len(queue.written) == 1
    assert queue.calls[:2] == [move, "ask"]


async def test_that_no_child_is_pending_is_believed_after_a_lost_reply_only_of_our_own_job() -> (
    None
):
    waits = WaitsForChildren()
    ours = ModelQueue(fates=[Fate.UNRUN], children=Refusal.NONE_PENDING)
    assert (await settle(ours, waits)).outcome is Outcome.WAITING_CHILDREN
    assert ours.written == ["returned"]
    taken = ModelQueue(fates=[Fate.UNRUN, Fate.STOLEN], children=Refusal.NONE_PENDING)
    assert (await settle(taken, waits)).outcome is Outcome.WAITING_CHILDREN
    assert (taken.written, taken.lock) == ([], "another")


async def test_a_question_whose_reply_is_lost_is_asked_again() -> None:
    queue = ModelQueue(fates=[Fate.RUN, Fate.UNRUN, Fate.RUN, Fate.GOOD, Fate.RUN], waiting=[NEXT])
    assert await settle(queue, GOOD) == Settlement(Outcome.COMPLETED, NEXT)
    assert queue.calls == ["finish", "ask", "ask", "ask", "owned", "owned"]


@pytest.mark.parametrize(
    "verdict", [GOOD, BAD, FINAL, Returned(), Delayed(50), PUT_BACK, WaitsForChildren()], ids=repr
)
async def test_a_script_that_failed_after_its_work_is_not_run_again(verdict: Verdict) -> None:
    queue = ModelQueue(fates=[Fate.HALF], waiting=[NEXT])
    settlement = await settle(queue, verdict)
    assert settlement.outcome is not Outcome.LOST
    assert len(queue.written) == 1
    assert [call for call in queue.calls if call not in {"ask", "owned"}] == queue.calls[:1]


@pytest.mark.parametrize("fate", [Fate.REFUSED, Fate.AWAY])
async def test_a_server_that_refuses_is_asked_again_with_growing_pauses(
    autojump_clock: object, fate: Fate
) -> None:
    queue = ModelQueue(fates=[fate] * 8)
    assert (await settle(queue, GOOD)).outcome is Outcome.COMPLETED
    assert anyio.current_time() == pytest.approx(0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 2 + 2 + 2)
    assert len(queue.calls) == 9


# --- Whatever happens ---


@settings(deadline=None, max_examples=400)
@given(
    fates=st.lists(st.sampled_from(Fate), max_size=8),
    verdict=st.sampled_from(
        [
            GOOD,
            BAD,
            FINAL,
            Cancelled(),
            *SENT_BACK,
            Completed(b"{}", LargeResult("k", b"x", timedelta(1))),
        ]
    ),
    none_pending=st.booleans(),
    removes=st.booleans(),
    waiting=st.booleans(),
    may_fetch=st.booleans(),
)
def test_never_two_writes_that_count_and_no_job_forgotten(
    fates: list[Fate],
    verdict: Verdict,
    none_pending: bool,
    removes: bool,
    waiting: bool,
    may_fetch: bool,
) -> None:
    queue = ModelQueue(fates=[*fates], removes_finished=removes, waiting=[NEXT] if waiting else [])
    if none_pending and isinstance(verdict, WaitsForChildren):
        queue.children = Refusal.NONE_PENDING

    async def run() -> Settlement:
        with anyio.fail_after(120):
            return await settle(queue, verdict, may_fetch=may_fetch)

    settlement = run_virtual(run)
    for run_late in queue.late:
        run_late()
    assert len(queue.written) <= 1
    expected = {
        "completed": Outcome.COMPLETED,
        "failed": Outcome.CANCELLED if verdict == Cancelled() else Outcome.FAILED,
        "retried in 0": Outcome.RETRIED,
    }
    sent_back = {
        Returned: Outcome.RETURNED,
        Delayed: Outcome.DELAYED,
        PutBack: Outcome.DELAYED,
        WaitsForChildren: Outcome.WAITING_CHILDREN,
        HeldBack: Outcome.RATE_LIMITED,
    }.get(type(verdict))
    if queue.written:
        assert settlement.outcome is (sent_back or expected[queue.written[0]])
    else:
        # A job sent back or lost before: either way it is in the queue, and no attempt is spent.
        assert settlement.outcome in {Outcome.LOST, sent_back}
    if settlement.outcome is Outcome.RATE_LIMITED:
        assert settlement.following == Nothing(limited_ms=800)
    else:
        # What the server holds active for this worker is what the slot is told to run next.
        assert settlement.following == queue.owned.get(TOKEN, Nothing())

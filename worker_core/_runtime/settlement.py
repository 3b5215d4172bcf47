"""Writing down how a run ended: complete, fail, retry, return; and finding out after a lost reply.

Nothing is guessed here. A call that was sent and not answered is resolved by asking the queue: the
lock tells whether the call ran, the job's own fields tell whose call it was.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import anyio
import attrs
import structlog

from worker_core._bullmq.attempts import GiveUp, RetryAfter, next_step
from worker_core._bullmq.calls import Failure, Finish, now_ms
from worker_core._bullmq.cancelling import CANCELLED
from worker_core._bullmq.replies import (
    STILL_OWNED,
    Claim,
    Finished,
    Nothing,
    Refusal,
    may_have_run,
)
from worker_core._runtime.failure import (
    class_of,
    history_with,
    is_retryable,
    reason_text,
    trace_list,
)
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
from worker_core.errors import (
    JobError,
    RedisError,
    RedisUnavailable,
    ReplyError,
    ReplyLost,
    Unrecoverable,
)
from worker_core.job import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker_core._bullmq.job import StoredJob
    from worker_core._bullmq.queue import Queue
    from worker_core._bullmq.replies import Settled
    from worker_core._runtime.backoffs import Backoffs
    from worker_core._runtime.dead_letters import DeadLetters
    from worker_core.dead_letters import ErrorClass

__all__ = ["Announce", "Settler"]

T = TypeVar("T")

_log = structlog.get_logger("worker_core.settlement")

_RUNS_AT_ONCE = 10
_RERUN_MS = 1000
# BullMQ's own words: alerts may look for them.
_PENDING = "Job {} has pending dependencies. moveToFinished"
_CHILD_FAILED = "Cannot complete job {} because it has at least one failed child. moveToFinished"
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


Announce: TypeAlias = "Callable[[Outcome, bytes | None], None]"
"""Is told the outcome just before it is written, and each time, with the reason of a failure."""


def _to_nobody(_: Outcome, __: bytes | None) -> None:
    return None


@attrs.define
class _Doubt:
    """What is known of a call that moves a job and is made until it is answered."""

    unsure: bool = False
    """An earlier one may have run."""
    pause_seconds: float = _FIRST_PAUSE_SECONDS


class Settler:
    """Settles the jobs of one queue. `may_fetch` says whether a finish may bring the next job."""

    def __init__(
        self,
        queue: Queue,
        may_fetch: Callable[[], bool],
        *,
        backoffs: Backoffs,
        dead_letters: DeadLetters | None = None,
        max_started: int | None = None,
    ) -> None:
        self._queue = queue
        self._may_fetch = may_fetch
        self._backoffs = backoffs
        self._dead_letters = dead_letters
        self._max_started = max_started

    async def settle(
        self, job: StoredJob, token: str, verdict: Verdict, announce: Announce = _to_nobody
    ) -> Settlement:
        """Write the verdict down; the caller bounds and shields this.

        `announce` is told the outcome just before it is written, with the reason of a failure.
        """
        if job.repairs and not isinstance(verdict, Lost):
            await self._repeat(lambda: self._queue.repair(job, token))
        if job.attempts_started > job.attempts_made + 1:
            await self._review_letters(job, verdict)
        match verdict:
            case Completed():
                # Not in a method of its own: this is the way of almost every job.
                if verdict.large is not None:
                    await self._store(verdict.large)
                announce(Outcome.COMPLETED, None)
                ending = Finish(completed=True, value=verdict.value)
                ended = await self._finish(job, token, ending, Outcome.COMPLETED, announce)
                if isinstance(ended, Finished):
                    return Settlement(Outcome.COMPLETED, ended.following)
                return await self._not_completed(job, token, ended, announce)
            case Failed(error):
                return await self._fail(job, token, error, announce)
            case Cancelled():
                return await self._cancel(job, token, announce)
            case Returned():
                announce(Outcome.RETURNED, None)
                return await self._give_back(job, token, Outcome.RETURNED)
            case Delayed(delay_ms):
                announce(Outcome.DELAYED, None)
                return await self._delay(job, token, delay_ms, Outcome.DELAYED)
            case PutBack(_, delay_ms, since_ms):
                announce(Outcome.DELAYED, None)
                return await self._delay(
                    job, token, delay_ms, Outcome.DELAYED, put_off_since_ms=since_ms
                )
            case WaitsForChildren():
                return await self._wait_for_children(job, token, announce)
            case HeldBack(limit_ms):
                announce(Outcome.RATE_LIMITED, None)
                await self._repeat(lambda: self._queue.hold_back(limit_ms))
                limited = Nothing(limited_ms=limit_ms)
                return await self._give_back(job, token, Outcome.RATE_LIMITED, limited)
            case Lost():
                return Settlement(Outcome.LOST)

    async def _review_letters(self, job: StoredJob, verdict: Verdict) -> None:
        """See to what an earlier run has left that ended without a word, maybe as it failed for good."""
        dead = self._dead_letters
        if dead is not None and isinstance(verdict, Completed | Failed | Cancelled):
            await self._repeat(lambda: dead.review_job(job.id))

    async def _not_completed(
        self, job: StoredJob, token: str, refusal: Refusal, announce: Announce
    ) -> Settlement:
        match refusal:
            case Refusal.PENDING_CHILDREN:
                error: JobError = JobError(_PENDING.format(job.id))
                return await self._fail(job, token, error, announce)
            case Refusal.FAILED_CHILDREN:
                error = Unrecoverable(_CHILD_FAILED.format(job.id))
                return await self._fail(job, token, error, announce)
            case (
                Refusal.JOB_GONE
                | Refusal.LOCK_GONE
                | Refusal.LOCK_STOLEN
                | Refusal.NOT_ACTIVE
                | Refusal.NONE_PENDING  # another script's answer
            ):
                return _lost(job, refusal)

    async def _fail(
        self, job: StoredJob, token: str, error: Exception, announce: Announce
    ) -> Settlement:
        at_ms = now_ms()
        failure = Failure(
            reason=reason_text(error),
            stacktrace=trace_list(job, error),
            history=history_with(job, error, at_ms=at_ms, worker=self._queue.options.worker),
        )
        # Jitter, no secret.
        step = next_step(
            job,
            retryable=is_retryable(error),
            random=random.random,
            max_started=self._max_started,
            custom=lambda backoff: self._backoffs.step(job, backoff, error),
        )
        match step:
            case RetryAfter(delay_ms):
                announce(Outcome.RETRIED, failure.reason)
                return await self._retry(job, token, failure, delay_ms)
            case GiveUp(because):
                reason = failure.reason
                if because is not None:
                    reason = f"{because}; the attempt failed with: ".encode() + reason
                ending = Finish(
                    completed=False,
                    value=reason,
                    stacktrace=failure.stacktrace,
                    history=failure.history,
                    at_ms=at_ms,
                )
                return await self._give_up(job, token, ending, class_of(job, error), announce)

    async def _give_up(
        self,
        job: StoredJob,
        token: str,
        ending: Finish,
        error_class: ErrorClass,
        announce: Announce,
    ) -> Settlement:
        """Fail a job for good, and see to its dead letter."""
        dead, entry = self._dead_letters, None
        if dead is not None:
            entry = await self._repeat(lambda: dead.promise(job, token, ending, error_class))
        announce(Outcome.FAILED, ending.value)
        ended = await self._finish(job, token, ending, Outcome.FAILED, announce)
        if dead is not None and entry is not None:
            dead.settled(entry, accepted=isinstance(ended, Finished))
        if isinstance(ended, Finished):
            return Settlement(Outcome.FAILED, ended.following)
        return _lost(job, ended)

    async def _cancel(self, job: StoredJob, token: str, announce: Announce) -> Settlement:
        announce(Outcome.CANCELLED, CANCELLED)
        ending = Finish(completed=False, value=CANCELLED)
        ended = await self._finish(job, token, ending, Outcome.CANCELLED, announce)
        if isinstance(ended, Finished):
            return Settlement(Outcome.CANCELLED, ended.following)
        return _lost(job, ended)

    async def _finish(
        self, job: StoredJob, token: str, ending: Finish, outcome: Outcome, announce: Announce
    ) -> Finished | Refusal:
        """Finish, once: also where replies are lost."""
        doubt = _Doubt()
        while True:
            try:
                ended = await self._queue.finish(job, token, ending, fetch_next=self._may_fetch())
            except RedisError as error:
                settled = await self._find_out(error, job, token, doubt)
                if settled.owned:
                    # What was announced went the same way.
                    announce(outcome, None if ending.completed else ending.value)
                    continue
            else:
                if not (doubt.unsure and isinstance(ended, Refusal) and ended.is_loss):
                    return ended
                # The first call ran after all, between the question and the second call.
                settled = await self._ask(job, token)
            # A job that is gone was removed by our finish (removeOnComplete): we held its lock.
            if settled.finished_on_ms == ending.at_ms or not settled.exists:
                owned = await self._repeat(lambda: self._queue.owned_by(token))
                return Finished(owned or Nothing())
            return Refusal.LOCK_GONE

    async def _retry(
        self, job: StoredJob, token: str, failure: Failure, delay_ms: int
    ) -> Settlement:
        refusal = await self._move(
            job,
            token,
            lambda: self._queue.retry(job, token, failure, delay_ms=delay_ms),
            moved=lambda settled: settled.attempts_made > job.attempts_made,
        )
        return Settlement(Outcome.RETRIED) if refusal is None else _lost(job, refusal)

    async def _give_back(
        self, job: StoredJob, token: str, outcome: Outcome, following: Claim = Nothing()
    ) -> Settlement:
        refusal = await self._let_go(job, token, lambda: self._queue.give_back(job, token))
        return Settlement(outcome, following) if refusal is None else _lost(job, refusal)

    async def _delay(
        self,
        job: StoredJob,
        token: str,
        delay_ms: int,
        outcome: Outcome,
        *,
        put_off_since_ms: int | None = None,
    ) -> Settlement:
        refusal = await self._let_go(
            job,
            token,
            lambda: self._queue.delay(job, token, delay_ms, put_off_since_ms=put_off_since_ms),
        )
        return Settlement(outcome) if refusal is None else _lost(job, refusal)

    async def _wait_for_children(
        self, job: StoredJob, token: str, announce: Announce
    ) -> Settlement:
        announce(Outcome.WAITING_CHILDREN, None)
        refusal = await self._let_go(job, token, lambda: self._queue.wait_for_children(job, token))
        match refusal:
            case None:
                return Settlement(Outcome.WAITING_CHILDREN)
            case Refusal.FAILED_CHILDREN:
                error = Unrecoverable(_CHILD_FAILED.format(job.id))
                return await self._fail(job, token, error, announce)
            case Refusal.NONE_PENDING:
                # They ended meanwhile, or there are none: run again, as if it had waited. A job
                # type that waits for nothing, and again for nothing, must not keep a core busy.
                if job.attempts_started - job.attempts_made <= _RUNS_AT_ONCE:
                    return await self._give_back(job, token, Outcome.WAITING_CHILDREN)
                return await self._delay(job, token, _RERUN_MS, Outcome.WAITING_CHILDREN)
            case _:
                return _lost(job, refusal)

    async def _let_go(
        self, job: StoredJob, token: str, call: Callable[[], Awaitable[Refusal | None]]
    ) -> Refusal | None:
        # Moved, or lost before: either way it is not ours any more, and no attempt is spent.
        return await self._move(job, token, call, moved=lambda _: True)

    async def _move(
        self,
        job: StoredJob,
        token: str,
        call: Callable[[], Awaitable[Refusal | None]],
        *,
        moved: Callable[[Settled], bool],
    ) -> Refusal | None:
        """Move the job, once: also where replies are lost. `None`: it was moved.

        `moved` tells from what stands in the queue whether it was this call that moved it.
        """
        doubt = _Doubt()
        while True:
            try:
                refusal = await call()
            except RedisError as error:
                settled = await self._find_out(error, job, token, doubt)
                if settled.owned:
                    continue
            else:
                if refusal is None or not doubt.unsure:
                    return refusal
                settled = await self._ask(job, token)
                if settled.owned:
                    return refusal  # the first call did not run, and this one would not
            return None if moved(settled) else Refusal.LOCK_GONE

    async def _find_out(
        self, error: RedisError, job: StoredJob, token: str, doubt: _Doubt
    ) -> Settled:
        """Say what became of a job after a call that failed; still owned: call again.

        Not even an error reply means that nothing was done: the script that finishes a job fetches
        the next one, and may fail there.
        """
        if isinstance(error, ReplyLost):
            doubt.unsure = True
            return await self._ask(job, token)
        if isinstance(error, ReplyError) and may_have_run(error):
            settled = await self._ask(job, token)
            if not settled.owned:
                doubt.unsure = True
                return settled
        await self._wait_to_repeat(error, doubt)
        return STILL_OWNED

    async def _wait_to_repeat(self, error: RedisError, doubt: _Doubt) -> None:
        """Wait before a call is made again that the server refused, as when its memory is full."""
        if not isinstance(error, ReplyError | RedisUnavailable):
            raise error
        # The answer is worth waiting for; the caller's bound ends this.
        _log.warning("Redis refuses to write a job's outcome", reason=str(error))
        await anyio.sleep(doubt.pause_seconds)
        doubt.pause_seconds = min(doubt.pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    async def _store(self, large: LargeResult) -> None:
        ttl_ms = int(large.ttl.total_seconds() * 1000)
        await self._repeat(
            lambda: self._queue.link.call("SET", large.key, large.value, "PX", ttl_ms)
        )

    async def _ask(self, job: StoredJob, token: str) -> Settled:
        return await self._repeat(lambda: self._queue.settled(job, token))

    async def _repeat(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call that may run twice without harm until it is answered."""
        doubt = _Doubt()
        while True:
            try:
                return await call()
            except ReplyLost:
                continue
            except RedisError as error:
                await self._wait_to_repeat(error, doubt)


def _lost(job: StoredJob, refusal: Refusal) -> Settlement:
    _log.warning(
        "job lost: another worker has it, or it was removed", job_id=job.id, why=refusal.name
    )
    return Settlement(Outcome.LOST)

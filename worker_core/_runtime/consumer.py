"""A consumer: takes the jobs of one queue. A claimer, and as many slots as may run at once."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import anyio.lowlevel
import structlog
import trio

from worker_core._bullmq.job import StoredJob
from worker_core._bullmq.replies import Claim, Nothing, may_have_run
from worker_core._runtime.marker import MarkerWatch
from worker_core._runtime.scope import RETURN_SECONDS
from worker_core.errors import RedisError, ReplyError, ReplyLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core._bullmq.queue import Queue
    from worker_core._runtime.execution import Execution, Run

__all__ = ["Consumer", "Slot"]

_log = structlog.get_logger("worker_core.consumer")

_LONGEST_LIMIT_MS = 30_000
_PAUSE_LOOK_SECONDS = 1.0
_CLAIM_SECONDS = 30.0
"""Longer than any reply: the link gives a sent call up before."""
_REFUSED_PAUSE_MS = 1000
_CLAIM_IN_DOUBT = "a claim was lost and Redis does not tell whether it brought a job"


class Slot:
    """One place of a consumer's concurrency; its token locks one job after the other."""

    __slots__ = ("_job", "_wake", "ended", "token")

    def __init__(self, token: str) -> None:
        self.token = token
        self.ended = False
        """Nobody takes jobs here any more."""
        self._job: StoredJob | None = None
        self._wake = anyio.Event()

    def give(self, job: StoredJob | None) -> None:
        """Hand over a claimed job, or `None` to end the slot."""
        self._job = job
        self._wake.set()

    async def take(self) -> StoredJob | None:
        """Wait for a job."""
        await self._wake.wait()
        self._wake = anyio.Event()
        return self._job


class Consumer:
    """Takes jobs from one queue. The claimer gets a slot first and claims then, so that no job is
    ever claimed that nobody can run."""

    def __init__(
        self,
        *,
        queue: Queue,
        execution: Execution,
        concurrency: int,
        nothing_waits: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._execution = execution
        self._pause = execution.pause
        self._nothing_waits = nothing_waits
        worker = uuid4().hex
        self._slots = [Slot(f"{worker}:{number}") for number in range(concurrency)]
        self._idle: deque[Slot] = deque()
        self._slot_freed = anyio.Event()
        self._marker = MarkerWatch(queue, has_free_slot=self._could_claim)
        self._closing = False
        self._claiming = anyio.CancelScope()
        self._end_by = math.inf
        self._limited_until = -math.inf
        """Until when the queue is held back, as a settlement has told, by the loop's clock."""
        self._running = len(self._slots)
        self._ended = anyio.Event()
        self._refusal: str | None = None
        """Why the last claim was refused, though Redis answers."""

    @property
    def slots(self) -> list[Slot]:
        """The consumer's slots; each runs in a task of its own."""
        return self._slots

    @property
    def trouble(self) -> str | None:
        """Why jobs cannot be taken as they should be, though Redis answers."""
        reason = self._refusal or self._marker.trouble
        return None if reason is None else f"{self.name}: {reason}"

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._queue.keys.name

    def close(self) -> None:
        """Take nothing more; slots end when their job has."""
        self._closing = True
        # A claim under way is brought to its end, but not for as long as an outage lasts.
        self._claiming.deadline = anyio.current_time() + RETURN_SECONDS
        while self._idle:
            self._idle.popleft().give(None)

    def end_by(self, at: float) -> None:
        """Stop jobs that start from now on at this time; those that run are the keeper's to stop."""
        self._end_by = min(self._end_by, at)

    async def ended(self) -> None:
        """Wait until every slot has ended."""
        await self._ended.wait()

    async def run_slot(self, slot: Slot) -> None:
        """Run one job after the other until closed."""
        try:
            while not self._closing:
                self._idle.append(slot)
                self._slot_freed.set()
                job = await slot.take()
                while job is not None:
                    job = await self._run_from(job, slot)
        finally:
            slot.ended = True
            if slot in self._idle:
                self._idle.remove(slot)
            self._running -= 1
            if not self._running:
                self._ended.set()

    async def _run_from(self, job: StoredJob, slot: Slot) -> StoredJob | None:
        """Run a job and those that its finish brings along, until none follows or one is stopped.

        Returns the job that follows the one that was stopped, if there is one.
        """
        run: Run | None = None
        try:
            with trio.CancelScope(shield=True) as shield:
                while True:
                    run = self._execution.begin(job, slot.token, shield, end_by=self._end_by)
                    following = await run.carry_out()
                    if following is None:
                        break
                    if isinstance(following, StoredJob) and not self._closing:
                        next_job: StoredJob | None = following
                    else:
                        next_job = await self._next(following, slot)
                    if next_job is None or shield.cancel_called:
                        return next_job
                    job = next_job
            assert run is not None
            return await self._next(await run.settle_late(), slot)
        except BaseException:
            # Else its lock would be renewed for as long as other jobs run.
            if run is not None:
                run.abandon()
            raise

    async def _next(self, following: Claim, slot: Slot) -> StoredJob | None:
        if isinstance(following, Nothing):
            if following.limited_ms:
                self._limited(following.limited_ms)
            return None
        if self._closing:
            # It was on its way when the drain began.
            await self._return(following, slot)
            return None
        return following

    async def run_claimer(self) -> None:
        """Claim until cancelled or closed; a claim that was sent is brought to its end."""
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(self._marker.run)
            await self._claim_jobs()
            waiting.cancel_scope.cancel()

    async def _claim_jobs(self) -> None:
        while True:
            # With a full queue and free slots nothing below waits: a cancel must be seen here.
            await anyio.lowlevel.checkpoint()
            slot = await self._free_slot()
            try:
                claim = await self._claim(slot)
            except BaseException:
                self._free(slot)
                raise
            if isinstance(claim, StoredJob):
                if self._closing or slot.ended:
                    await self._return(claim, slot)
                    self._free(slot)
                    return
                slot.give(claim)
                continue
            self._free(slot)
            self._nothing_waits()
            await self._wait_for_work(claim)

    async def _free_slot(self) -> Slot:
        while not self._could_claim():
            if self._idle:
                # A pause may be over before: what a job meets, or an operator, has closed a circuit.
                pause_ends = min(self._pause.until, trio.current_time() + _PAUSE_LOOK_SECONDS)
                await trio.sleep_until(max(self._limited_until, pause_ends))
                continue
            self._slot_freed = anyio.Event()
            await self._slot_freed.wait()
        return self._idle.popleft()

    def _could_claim(self) -> bool:
        held_until = max(self._limited_until, self._pause.until)
        return bool(self._idle) and held_until <= trio.current_time()

    def _limited(self, limited_ms: int) -> None:
        """Claim nothing while the queue is held back; a long time is asked about in between."""
        self._limited_until = trio.current_time() + min(limited_ms, _LONGEST_LIMIT_MS) / 1000

    def _free(self, slot: Slot) -> None:
        """Put back a slot that got no job, or end it where the consumer is closing."""
        if self._closing:
            slot.give(None)
        elif not slot.ended:
            self._idle.appendleft(slot)

    async def _claim(self, slot: Slot) -> Claim:
        while True:
            # Waiting for a lost Redis may be cancelled; a call that was sent may not, for it may
            # have made a job active that nobody else knows of.
            await self._queue.link.wait_connected(within=math.inf)
            with anyio.CancelScope(shield=True) as self._claiming:
                try:
                    with anyio.fail_after(_CLAIM_SECONDS):
                        claimed = await self._queue.claim(slot.token)
                    self._refusal = None
                    return claimed
                except (ReplyLost, TimeoutError):
                    if owned := await self._find_claimed(slot):
                        return owned
                except RedisError as error:
                    # A script that stumbles over a job's field has made it active before.
                    in_doubt = isinstance(error, ReplyError) and may_have_run(error)
                    if in_doubt and (owned := await self._find_claimed(slot)):
                        return owned
                    self._refusal = str(error)
                    _log.error("no job can be claimed", queue=self.name, reason=str(error))
                    return Nothing(limited_ms=_REFUSED_PAUSE_MS)
            if self._claiming.cancelled_caught:
                _log.error(_CLAIM_IN_DOUBT, queue=self.name, reason="the worker stops")
                return Nothing()

    async def _find_claimed(self, slot: Slot) -> StoredJob | None:
        """Ask whether a claim whose reply was lost brought a job."""
        try:
            with anyio.fail_after(_CLAIM_SECONDS):
                while True:
                    try:
                        return await self._queue.owned_by(slot.token)
                    except ReplyLost:
                        continue
        except (TimeoutError, RedisError) as error:
            # If there is a job, its lock runs out and the stalled check puts it back.
            _log.error(_CLAIM_IN_DOUBT, queue=self.name, reason=str(error) or "no reply in time")
            return None

    async def _wait_for_work(self, nothing: Nothing) -> None:
        """Wait until another claim is worth it."""
        if nothing.limited_ms:
            await anyio.sleep(min(nothing.limited_ms, _LONGEST_LIMIT_MS) / 1000)
        else:
            await self._marker.wait(due_at_ms=nothing.due_at_ms)

    async def _return(self, job: StoredJob, slot: Slot) -> None:
        """Give back a job that was claimed and may not start."""
        with anyio.move_on_after(RETURN_SECONDS, shield=True) as bound:
            await self._execution.give_back(job, slot.token)
        if bound.cancelled_caught:
            # Its lock runs out, and the stalled check puts it back.
            _log.error("a job could not be returned in time", queue=self.name, job_id=job.id)

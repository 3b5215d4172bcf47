"""The wishes to cancel jobs of one queue: heard on a channel, and kept in Redis until a job has ended.

What is remembered here is only a hint, so that a job costs no call: Redis is asked before a job is
stopped, or failed, for it. A message may come so late that another job has the id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Protocol

import anyio
import anyio.lowlevel
import structlog

from worker_core._bullmq.cancelling import CancelOutcome
from worker_core._runtime.scope import RETURN_SECONDS
from worker_core.errors import RedisError, ReplyLost
from worker_core.job import Outcome
from worker_core.redis import Subscription

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from worker_core._bullmq.job import StoredJob
    from worker_core._bullmq.queue import Queue
    from worker_core._runtime.keeper import Keeper
    from worker_core.redis import Connector

__all__ = ["Cancels", "Listener", "hear_channels"]

_log = structlog.get_logger("worker_core.cancels")

_RETRY_SECONDS = 1.0
_SUBSCRIBE_SECONDS = 1.0
"""How long the first review waits for the subscription; a second one would follow that."""
_SPACING_SECONDS = 1.0
"""Somebody may cancel thousands of jobs, each of them told."""
_LONGEST_REVIEW_SECONDS = 30.0


class Cancels:
    """Who of one queue is to be cancelled, and that it comes to pass."""

    def __init__(self, queue: Queue, keeper: Keeper, *, interval: timedelta) -> None:
        self._queue = queue
        self._keeper = keeper
        self._interval = interval.total_seconds()
        self._hears = False
        self._tried = anyio.Event()
        self._woken = anyio.Event()
        self._told = anyio.Event()
        """Set when a job that runs here may have to be stopped."""
        self._fresh: set[str] = set()
        """Those heard since Redis was asked last: its answer may be older."""
        self._stopped: set[str] = set()
        """Those that were, so that it is said once."""
        self.wished: set[str] = set()
        """Ids of jobs that may have to be cancelled; mostly empty, and always this same set."""
        self.reviewed = anyio.Event()
        """Set when Redis has been asked for the first time, or has not answered."""

    @property
    def channel(self) -> str:
        """Where wishes are told."""
        return self._queue.keys.wishes

    def hear(self, job_id: str) -> None:
        """Learn of a wish; a job that runs here is stopped when Redis has confirmed it."""
        self._fresh.add(job_id)
        self.wished.add(job_id)
        if self._keeper.holds(job_id):
            self._told.set()
        else:
            # It may just have been put back, and would wait here as long as its backoff says.
            self._woken.set()

    def _stop(self, standing: frozenset[str]) -> None:
        """Remember who is to be cancelled, and stop those that run here."""
        self.wished.update(standing)
        self._stopped.intersection_update(standing)
        for job_id in standing:
            if self._keeper.cancel(job_id) and job_id not in self._stopped:
                self._stopped.add(job_id)
                _log.info("a running job is cancelled", queue=self._queue.keys.name, job_id=job_id)

    def hears(self, *, all_of_them: bool) -> None:
        """Learn whether from now on every wish is heard; those of before are looked for."""
        self._hears = all_of_them
        self._tried.set()
        if all_of_them:
            self._woken.set()

    async def confirms(self, job: StoredJob) -> bool:
        """Ask whether a job that was claimed and has not begun is to be cancelled."""
        while True:
            try:
                return job.id in await self._queue.standing_wishes()
            except ReplyLost:
                continue
            except RedisError as error:
                # It runs, and the next review stops it if the wish stands.
                reason = str(error)
                _log.warning("a wish to cancel was not confirmed", job_id=job.id, reason=reason)
                self._woken.set()
                return False

    def ended(self, job: StoredJob, outcome: Outcome) -> None:
        """Learn how the run of a job has ended that may have to be cancelled."""
        match outcome:
            case Outcome.COMPLETED | Outcome.FAILED | Outcome.CANCELLED:
                # It stays in the set until a review has found it gone: this may get lost.
                self._queue.post_end_cancel(job)
            case (
                Outcome.RETRIED
                | Outcome.DELAYED
                | Outcome.WAITING_CHILDREN
                | Outcome.RATE_LIMITED
                | Outcome.RETURNED
            ):
                # It waits again, maybe for hours: no need to let it.
                self._woken.set()
            case Outcome.LOST:
                pass  # another worker has it, and has heard the same

    async def run(self) -> None:
        """See to the wishes, to those for running jobs at once, and to all now and then; for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._stop_those_told)
            await self._keep_reviewing()

    async def _stop_those_told(self) -> NoReturn:
        """Stop jobs that run here soon after a wish is heard: what is generated is not wanted."""
        while True:
            await self._told.wait()
            self._told = anyio.Event()
            try:
                with anyio.fail_after(_LONGEST_REVIEW_SECONDS):
                    self._stop(await self._queue.standing_wishes())
            except (RedisError, TimeoutError):
                self._woken.set()  # for the review, which is made until it succeeds

    async def _keep_reviewing(self) -> NoReturn:
        """Review the wishes when there are any, or when some may not have been heard."""
        # What is told before the subscription is found by the review behind it.
        with anyio.move_on_after(_SUBSCRIBE_SECONDS):
            await self._tried.wait()
        self._woken = anyio.Event()
        due = True
        while True:
            pause = self._interval
            if due or self.wished or not self._hears:
                due = not await self._review()
                if due:
                    pause = min(pause, _RETRY_SECONDS)
            reviewed_at = anyio.current_time()
            with anyio.move_on_after(pause):
                await self._woken.wait()
                await anyio.sleep_until(reviewed_at + _SPACING_SECONDS)
            due = due or self._woken.is_set()
            self._woken = anyio.Event()

    async def _review(self) -> bool:
        """See to the wishes that stand, and tell whether the queue answered."""
        self._fresh.clear()
        try:
            with anyio.fail_after(_LONGEST_REVIEW_SECONDS):
                standing = await self._queue.standing_wishes()
                self.wished.intersection_update(standing | self._fresh)
                self._stop(standing)
                self.reviewed.set()
                for job_id in standing:
                    await self._pursue(job_id)
        except (RedisError, TimeoutError) as error:
            reason = str(error) or "no reply in time"
            _log.warning("wishes not reviewed", queue=self._queue.keys.name, reason=reason)
            return False
        finally:
            self.reviewed.set()
        return True

    async def _pursue(self, job_id: str) -> None:
        """Cancel a job that waits though it was to be cancelled: it was put back, or tried again."""
        if self._keeper.holds(job_id):
            return
        await anyio.lowlevel.checkpoint_if_cancelled()
        # Left half way, as the worker stops, the job would be nobody's until a lock has run out.
        with anyio.fail_after(RETURN_SECONDS, shield=True):
            outcome = await self._queue.cancel_wished(job_id)
        if outcome is CancelOutcome.CANCELLED:
            _log.info("a waiting job is cancelled", queue=self._queue.keys.name, job_id=job_id)


class Listener(Protocol):
    """Who is told what comes on a channel."""

    @property
    def channel(self) -> str:
        """The channel's name."""
        ...

    def hear(self, message: str) -> None:
        """Take a message; must not block."""
        ...

    def hears(self, *, all_of_them: bool) -> None:
        """Learn whether from now on every message is heard."""
        ...


async def hear_channels(connector: Connector, listeners: Iterable[Listener]) -> NoReturn:
    """Listen to all channels on one connection, and hand on what comes."""
    by_channel: dict[str, list[Listener]] = {}
    for one in listeners:
        by_channel.setdefault(one.channel, []).append(one)

    def hand_on(channel: str, message: bytes) -> None:
        for one in by_channel.get(channel, ()):
            one.hear(message.decode("utf-8", "replace"))

    def change(subscribed: bool) -> None:
        for many in by_channel.values():
            for one in many:
                one.hears(all_of_them=subscribed)

    await Subscription(connector, by_channel, on_message=hand_on, on_change=change).run()

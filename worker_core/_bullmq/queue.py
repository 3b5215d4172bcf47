"""One queue over its links: claiming, finishing, renewing; what a worker does with it.

Losses are not hidden here: `ReplyLost` reaches the caller, who asks what happened by `owned_by`
and `settled`, since only the caller knows what it meant to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from worker_core._bullmq import calls, replies

if TYPE_CHECKING:
    from worker_core._bullmq.calls import ClaimOptions, Failure, Finish, ScriptCall
    from worker_core._bullmq.job import StoredJob
    from worker_core._bullmq.keys import QueueKeys
    from worker_core._bullmq.replies import Claim, Finished, Refusal, Settled
    from worker_core.redis import BlockingLink, Link

__all__ = ["Queue"]

_BLOCK_SLACK = timedelta(seconds=1)
"""A blocking call that is this late is dead: a watchdog ends it. (BullMQ's figure.)"""
_LONGEST_BLOCK = timedelta(seconds=10)
_SHORTEST_BLOCK = timedelta(milliseconds=2)
"""Servers before 7.0.8 take less for "for ever"."""


@attrs.frozen
class Queue:
    """A queue as one worker uses it. `blocking` serves `wait_for_marker` alone."""

    keys: QueueKeys
    link: Link
    blocking: BlockingLink
    options: ClaimOptions
    drain_delay: timedelta = timedelta(seconds=5)

    async def _run(self, call: ScriptCall) -> object:
        return await self.link.run_script(call.script, call.keys, call.args)

    async def claim(self, token: str) -> Claim:
        """Take the next job, locked by `token`, or learn when to ask again."""
        return replies.read_claim(await self._run(calls.claim(self.keys, token, self.options)))

    async def owned_by(self, token: str) -> StoredJob | None:
        """Return the active job that `token` owns: what a claim brought whose reply was lost."""
        return replies.read_owned(await self._run(calls.find_owned(self.keys, token)))

    async def finish(
        self, job: StoredJob, token: str, ending: Finish, *, fetch_next: bool
    ) -> Finished | Refusal:
        """Complete a job or fail it for good; the next one comes along where asked for."""
        call = calls.finish(self.keys, job, token, ending, self.options, fetch_next=fetch_next)
        return replies.read_finish(await self._run(call))

    async def retry(
        self, job: StoredJob, token: str, failure: Failure, *, delay_ms: int
    ) -> Refusal | None:
        """Spend an attempt: put a failed job back now, or among the delayed ones."""
        if delay_ms:
            call = calls.delay(self.keys, job, token, delay_ms, failure=failure)
        else:
            call = calls.retry(self.keys, job, token, failure)
        return replies.read_move(await self._run(call))

    async def give_back(self, job: StoredJob, token: str) -> Refusal | None:
        """Put a job at the head of the queue again, no attempt spent."""
        refusal = replies.read_move(await self._run(calls.give_back(self.keys, job.id, token)))
        if refusal is None and job.priority:
            # For prioritized jobs the script writes no marker: an idle worker would see it late.
            # Posted: a lost reply here must not make a doubt of what has been done.
            self.link.post("ZADD", self.keys.marker, 0, "0")
        return refusal

    async def repair(self, job: StoredJob, token: str) -> None:
        """Put right what the scripts that settle the job would stumble over."""
        await self._run(calls.repair(self.keys, job, token))

    async def renew(self, owners: Sequence[tuple[str, str]]) -> frozenset[str]:
        """Renew the locks of (job id, token) pairs and return the ids whose lock is lost."""
        call = calls.extend_locks(self.keys, owners, self.options.lock_ms)
        reply = await self._run(call)
        return replies.read_ids(reply if isinstance(reply, list) else [])

    async def sweep_stalled(self, *, max_stalled_count: int, interval: timedelta) -> frozenset[str]:
        """Put back jobs whose worker is gone, unless another worker has just done it."""
        interval_ms = int(interval.total_seconds() * 1000)
        call = calls.sweep_stalled(self.keys, max_stalled_count, interval_ms)
        reply = await self._run(call)
        return replies.read_ids(reply if isinstance(reply, list) else [])

    async def until_next_sweep(self, interval: timedelta) -> timedelta:
        """Return how long it takes until a stalled check may be made again, by any worker."""
        left_ms = await self.link.call("PTTL", self.keys.stalled_check)
        if not isinstance(left_ms, int) or left_ms < 0:
            return interval
        # A millisecond more: the server rounds, and a check that comes too early is none.
        return min(timedelta(milliseconds=left_ms + 1), interval)

    async def counts(self) -> dict[str, int]:
        """Return how many jobs there are in each state."""
        reply = await self._run(calls.count_jobs(self.keys))
        return replies.read_counts(reply)

    async def settled(self, job: StoredJob, token: str) -> Settled:
        """Ask what became of a job whose settling call was sent and not answered."""
        # The lock first: if it is ours, the call did not run, whatever the fields say.
        if await self.link.call("GET", self.keys.lock(job.id)) == token.encode():
            return replies.STILL_OWNED
        fields = await self.link.call(
            "HMGET", self.keys.job(job.id), "finishedOn", "atm", "timestamp"
        )
        return replies.read_settled(fields)

    async def wait_for_marker(self, due_in: timedelta | None) -> timedelta | None:
        """Block until something may be claimed, a delayed job is due, or the block's time is over.

        Returns how long from now the next delayed job is due where the marker said so. Raises
        `RedisError` when the connection was lost; claiming after that is right as well.
        """
        timeout = self.drain_delay if due_in is None else min(due_in, _LONGEST_BLOCK)
        timeout = max(timeout, _SHORTEST_BLOCK)
        reply = await self.blocking.call(
            "BZPOPMIN",
            self.keys.marker,
            timeout.total_seconds(),
            within=(timeout + _BLOCK_SLACK).total_seconds(),
        )
        due_ms = replies.read_marker(reply)
        if not due_ms:
            return None
        # A producer's delay may be more than a duration can hold.
        longest_ms = _LONGEST_BLOCK / timedelta(milliseconds=1)
        return timedelta(milliseconds=min(max(0.0, due_ms - calls.now_ms()), longest_ms))

    def post_progress(self, job_id: str, progress: bytes) -> None:
        """Publish progress without waiting for the answer; it is worth no job's time."""
        call = calls.update_progress(self.keys, job_id, progress)
        self.link.post_run(call.script.bind(call.keys), *call.args)

    def post_log(self, job: StoredJob, line: str) -> None:
        """Append a line to the job's log without waiting for the answer."""
        call = calls.add_log(self.keys, job.id, line, job.options.keep_logs)
        self.link.post_run(call.script.bind(call.keys), *call.args)

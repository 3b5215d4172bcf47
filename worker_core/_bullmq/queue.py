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
from worker_core._bullmq.cancelling import CancelOutcome, cancel_job, end_cancel, review_wishes
from worker_core._bullmq.flows import wait_for_children
from worker_core._bullmq.packed import PackedCompletion, pack_completion
from worker_core._bullmq.streams import add_entry

if TYPE_CHECKING:
    from worker_core._bullmq.calls import ClaimOptions, Failure, Finish, ScriptCall
    from worker_core._bullmq.job import JobOptions, StoredJob
    from worker_core._bullmq.keys import QueueKeys
    from worker_core._bullmq.replies import Claim, Finished, Refusal, Settled
    from worker_core._bullmq.streams import Place
    from worker_core.redis import BlockingLink, Link, ScriptHead

__all__ = ["Queue"]

_BLOCK_SLACK = timedelta(seconds=1)
"""A blocking call that is this late is dead: a watchdog ends it. (BullMQ's figure.)"""
_COMPLETIONS_KEPT = 4096
"""One for each slot and each set of options that producers give their jobs."""
_SHORTEST_BLOCK = timedelta(milliseconds=2)
"""Servers before 7.0.8 take less for "for ever"."""
_FAR_OVER_ANY_LIMIT = 2**53 - 1
"""What BullMQ's own workers set; it is compared with how many jobs are allowed."""


@attrs.frozen
class Queue:
    """A queue as one worker uses it. `blocking` serves `wait_for_marker` alone."""

    keys: QueueKeys
    link: Link
    blocking: BlockingLink
    options: ClaimOptions
    drain_delay: timedelta = timedelta(seconds=5)
    _heads: dict[tuple[str, tuple[str, ...]], ScriptHead] = attrs.field(
        factory=dict, init=False, repr=False
    )
    _completions: dict[tuple[str, JobOptions, bool], PackedCompletion] = attrs.field(
        factory=dict, init=False, repr=False
    )

    async def run(self, call: ScriptCall) -> object:
        """Make any call of the protocol, on whatever keys, and return its reply unread."""
        keys = call.keys[call.constant :]
        return await self.link.run(self._head(call), *keys, *call.args)

    def _post(self, call: ScriptCall) -> None:
        self.link.post_run(self._head(call), *call.keys[call.constant :], *call.args)

    def _head(self, call: ScriptCall) -> ScriptHead:
        """The part of a call that is the same each time, packed once."""
        constant = call.keys[: call.constant]
        head = self._heads.get((call.script.name, constant))
        if head is None:
            head = call.script.bind(constant, more_keys=len(call.keys) - call.constant)
            self._heads[call.script.name, constant] = head
        return head

    async def claim(self, token: str) -> Claim:
        """Take the next job, locked by `token`, or learn when to ask again."""
        return replies.read_claim(await self.run(calls.claim(self.keys, token, self.options)))

    async def owned_by(self, token: str) -> StoredJob | None:
        """Return the active job that `token` owns: what a claim brought whose reply was lost."""
        return replies.read_owned(await self.run(calls.find_owned(self.keys, token)))

    async def finish(
        self, job: StoredJob, token: str, ending: Finish, *, fetch_next: bool
    ) -> Finished | Refusal:
        """Complete a job or fail it for good; the next one comes along where asked for."""
        if ending.completed:
            packed = self._completion(token, job.options, fetch_next)
            data = packed.of(job.id.encode(), ending.at_ms, ending.value)
            return replies.read_finish(await self.link.run_packed(packed.script, data))
        call = calls.finish(self.keys, job, token, ending, self.options, fetch_next=fetch_next)
        return replies.read_finish(await self.run(call))

    def _completion(self, token: str, options: JobOptions, fetch_next: bool) -> PackedCompletion:
        key = (token, options, fetch_next)
        packed = self._completions.get(key)
        if packed is None:
            if len(self._completions) >= _COMPLETIONS_KEPT:
                self._completions.clear()
            packed = pack_completion(self.keys, token, options, self.options, fetch_next=fetch_next)
            self._completions[key] = packed
        return packed

    async def retry(
        self, job: StoredJob, token: str, failure: Failure, *, delay_ms: int
    ) -> Refusal | None:
        """Spend an attempt: put a failed job back now, or among the delayed ones."""
        if delay_ms:
            call = calls.delay(self.keys, job, token, delay_ms, failure=failure)
        else:
            call = calls.retry(self.keys, job, token, failure)
        return replies.read_move(await self.run(call))

    async def give_back(self, job: StoredJob, token: str) -> Refusal | None:
        """Put a job at the head of the queue again, no attempt spent."""
        refusal = replies.read_move(await self.run(calls.give_back(self.keys, job.id, token)))
        if refusal is None and job.priority:
            # For prioritized jobs the script writes no marker: an idle worker would see it late.
            # Posted: a lost reply here must not make a doubt of what has been done.
            self.post_marker()
        return refusal

    async def delay(
        self, job: StoredJob, token: str, delay_ms: int, *, put_off_since_ms: int | None = None
    ) -> Refusal | None:
        """Put a job among the delayed ones, no attempt spent."""
        call = calls.delay(
            self.keys,
            job,
            token,
            delay_ms,
            failure=None,
            skip_attempt=True,
            put_off_since_ms=put_off_since_ms,
        )
        return replies.read_move(await self.run(call))

    async def wait_for_children(self, job: StoredJob, token: str) -> Refusal | None:
        """Put a job among those that wait for their children, no attempt spent."""
        return replies.read_wait(await self.run(wait_for_children(self.keys, job.id, token)))

    async def hold_back(self, limit_ms: int) -> None:
        """Let the queue's rate limit be reached for so long."""
        await self.link.call("SET", self.keys.limiter, _FAR_OVER_ANY_LIMIT, "PX", limit_ms)

    async def repair(self, job: StoredJob, token: str) -> None:
        """Put right what the scripts that settle the job would stumble over."""
        await self.run(calls.repair(self.keys, job, token))

    async def renew(self, owners: Sequence[tuple[str, str]]) -> frozenset[str]:
        """Renew the locks of (job id, token) pairs and return the ids whose lock is lost."""
        call = calls.extend_locks(self.keys, owners, self.options.lock_ms)
        reply = await self.run(call)
        return replies.read_ids(reply if isinstance(reply, list) else [])

    async def sweep_stalled(self, *, max_stalled_count: int, interval: timedelta) -> frozenset[str]:
        """Put back jobs whose worker is gone, unless another worker has just done it."""
        interval_ms = int(interval.total_seconds() * 1000)
        call = calls.sweep_stalled(self.keys, max_stalled_count, interval_ms)
        reply = await self.run(call)
        return replies.read_ids(reply if isinstance(reply, list) else [])

    async def until_next_sweep(self, interval: timedelta) -> timedelta:
        """Return how long it takes until a stalled check may be made again, by any worker."""
        left_ms = await self.link.call("PTTL", self.keys.stalled_check)
        if not isinstance(left_ms, int) or left_ms < 0:
            return interval
        # A millisecond more: the server rounds, and a check that comes too early is none.
        return min(timedelta(milliseconds=left_ms + 1), interval)

    async def cancel_wished(self, job_id: str) -> CancelOutcome:
        """Cancel a job that waits, if somebody's wish for that still stands."""
        flow = cancel_job(self.keys, job_id, self.options, wished=True)
        reply: object = None
        while True:
            try:
                call = flow.send(reply)
            except StopIteration as end:
                outcome: CancelOutcome = end.value
                return outcome
            reply = await self.run(call)

    async def standing_wishes(self) -> frozenset[str]:
        """Forget the wishes to cancel jobs that have ended, and return the ids of the others."""
        reply = await self.run(review_wishes(self.keys))
        return replies.read_ids(reply if isinstance(reply, list) else [])

    def post_end_cancel(self, job: StoredJob) -> None:
        """Forget the wish for a job that has ended, without waiting for the answer."""
        self._post(end_cancel(self.keys, job.id, job.timestamp_ms))

    async def counts(self) -> dict[str, int]:
        """Return how many jobs there are in each state."""
        reply = await self.run(calls.count_jobs(self.keys))
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

    async def wait_for_marker(self) -> float | None:
        """Block until something may be claimed or the block's time is over, which gives `None`.

        Returns when the next delayed job is due, in milliseconds since the epoch, where the marker
        said so, else 0. Raises `RedisError` when the connection was lost; claiming after that is
        right as well.
        """
        timeout = max(self.drain_delay, _SHORTEST_BLOCK)
        reply = await self.blocking.call(
            "BZPOPMIN",
            self.keys.marker,
            timeout.total_seconds(),
            within=(timeout + _BLOCK_SLACK).total_seconds(),
        )
        return replies.read_marker(reply)

    def post_marker(self, due_at_ms: float = 0) -> None:
        """Tell another worker that something may be claimed, now or when a delayed job is due.

        The answer is not waited for.
        """
        if due_at_ms:
            # What has been said since then is newer.
            self.link.post("ZADD", self.keys.marker, "NX", due_at_ms, "1")
        else:
            self.link.post("ZADD", self.keys.marker, 0, "0")

    def post_progress(self, job_id: str, progress: bytes) -> None:
        """Publish progress without waiting for the answer; it is worth no job's time."""
        call = calls.update_progress(self.keys, job_id, progress)
        self._post(call)

    def post_log(self, job: StoredJob, line: str) -> None:
        """Append a line to the job's log without waiting for the answer."""
        call = calls.add_log(self.keys, job.id, line, job.options.keep_logs)
        self._post(call)

    def post_entry(
        self, job_id: str, token: str, data: bytes, *, place: Place, ttl: timedelta
    ) -> None:
        """Add an entry to the stream of a job that `token` locks, without waiting for the answer."""
        self._post(add_entry(self.keys, job_id, token, data, place=place, ttl=ttl))

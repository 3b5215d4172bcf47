"""The client for programs on trio."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar, cast

import anyio
import anyio.lowlevel
import trio

from worker_core._bullmq.adding import PRODUCER_SCRIPTS
from worker_core._bullmq.calls import ScriptCall
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.replies import EventKind
from worker_core._bullmq.scripts import load_script
from worker_core.batches import OnError
from worker_core.client import flows
from worker_core.client.batch_submission import INLINE_LIMIT, BatchSubmission
from worker_core.client.batches import ItemResult, list_items, look_at_batch
from worker_core.client.cancelling import CancelOutcome, cancel, ended_as
from worker_core.client.dead_letters import (
    LetterFilter,
    find_letters,
    read_letter,
    remove_job,
    retry_letter,
)
from worker_core.client.defaults import PATIENCE, POLL, endpoint_of
from worker_core.client.errors import ResultTimeout
from worker_core.client.following import TokenIterator
from worker_core.client.listing import list_jobs
from worker_core.client.submission import DEFAULT_QUEUES, prepare
from worker_core.client.tokens import follow
from worker_core.client.view import JobRef, JobView
from worker_core.client.watching import Watches
from worker_core.errors import RedisError, RedisUnavailable, ReplyLost
from worker_core.redis import BlockingLink, LinkOptions, connector_to, open_link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from datetime import timedelta

    from anyio.abc import TaskGroup

    from worker_core._bullmq.adding import AddOptions
    from worker_core._bullmq.replies import Final, JobState
    from worker_core.batches import BatchItem
    from worker_core.client.batches import BatchView
    from worker_core.client.dead_letters import FoundLetter, LetterRetry
    from worker_core.client.flows import Flow, Step
    from worker_core.client.result import Result
    from worker_core.client.watching import Events
    from worker_core.dead_letters import DeadLetter
    from worker_core.engine import JSON
    from worker_core.redis import Endpoint, Link

__all__ = ["Client", "open_client"]

T = TypeVar("T")


class Client:
    """Submits jobs and awaits their results; made by `open_client`, to be used by any task.

    Every method raises `RedisUnavailable` for an outage that lasts longer than the client's
    patience, and `ReplyError` for what the server refuses.
    """

    def __init__(
        self, link: Link, tasks: TaskGroup, *, prefix: str, patience: timedelta, poll: timedelta
    ) -> None:
        self._link = link
        self._prefix = prefix
        self._patience = patience.total_seconds()
        self._poll = poll.total_seconds()
        self._watches = Watches(tasks, link.connector, self._run)
        self._followed: set[TokenIterator] = set()

    async def submit(
        self,
        job_type: str,
        data: object,
        *,
        queue: str | None = None,
        options: AddOptions | None = None,
    ) -> JobRef:
        """Add a job and return what names it.

        `data` is what JSON can carry, or an attrs instance; `queue` is that of the type where
        the type is a first-party one. Raises `InvalidJob`, and `ReplyLost` when the connection
        ended before the answer: then the job may have been added or not. With a `job_id` of your
        own in `options` that is sorted out for you.
        """
        submission = prepare(self._prefix, job_type, data, queue, options)
        return await self._run(flows.submit(submission), repeat=submission.repeatable)

    async def get(self, ref: JobRef) -> JobView | None:
        """Look at a job; `None` where there is none."""
        return await self._run(flows.look_at(self._keys(ref), ref))

    async def list_jobs(self, queue: str, *, state: JobState, limit: int = 20) -> list[JobView]:
        """Look at up to `limit` jobs in one state: ended ones newest first, others next ones first."""
        return await self._run(list_jobs(QueueKeys(self._prefix, queue), state, limit))

    async def result(
        self,
        ref: JobRef,
        *,
        timeout: timedelta,
        on_progress: Callable[[JSON], None] | None = None,
    ) -> Result:
        """Wait for the job's end and return its result, wherever it is kept.

        `on_progress` is called with what the job publishes meanwhile. Raises `JobFailed`,
        `JobGone`, `ResultExpired`, and `ResultTimeout` (a `TimeoutError`).
        """
        keys = self._keys(ref)
        with anyio.move_on_after(timeout.total_seconds()):
            final = await self._wait_for_end(keys, ref, on_progress)
            return await self._run(flows.conclude(keys, ref, final))
        raise self._overdue(ref, timeout)

    async def cancel(self, ref: JobRef, *, wait: timedelta | None = None) -> CancelOutcome:
        """Cancel a job, whatever its state: it fails for good, with the reason `cancelled`.

        One that waits has failed when this returns; of one that runs the worker is told, and the
        answer is `REQUESTED`. With `wait` its end is awaited: `CANCELLED`, or `FINISHED` where it
        ended otherwise before. Raises `ResultTimeout` where the end does not come in time, and
        `JobGone` where it was removed and its end forgotten. Once begun it is brought to its end, also
        where its caller is cancelled meanwhile.
        """
        keys = self._keys(ref)
        outcome = await self._cancel(keys, ref)
        if outcome is not CancelOutcome.REQUESTED or wait is None:
            return outcome
        with anyio.move_on_after(wait.total_seconds()):
            return ended_as(await self._wait_for_end(keys, ref, None))
        raise self._overdue(ref, wait)

    async def _cancel(self, keys: QueueKeys, ref: JobRef) -> CancelOutcome:
        """Make the calls of a cancel: once begun to the end, also where the caller is stopped."""
        await self._link.wait_connected(within=self._patience)
        await anyio.lowlevel.checkpoint_if_cancelled()
        # Left half way, a job that waits would be nobody's until a lock has run out; where only
        # Node workers are, it would then be run, a delayed one before its time.
        with anyio.move_on_after(self._patience, shield=True):
            return await self._run(cancel(keys, ref))
        raise self._no_answer()

    async def submit_batch(
        self,
        items: Iterable[BatchItem] | AsyncIterable[BatchItem],
        *,
        queue: str = DEFAULT_QUEUES["batch"],
        concurrency: int | None = None,
        on_error: OnError = OnError.CONTINUE,
        timeout: timedelta | None = None,
        metadata: Mapping[str, JSON] | None = None,
        meta: Mapping[str, JSON] | None = None,
        inline_limit: int = INLINE_LIMIT,
        options: AddOptions | None = None,
        on_stored: Callable[[int], None] | None = None,
    ) -> JobRef:
        """Submit many requests as one job and return what names it.

        `items` is read once. Over `inline_limit` bytes they are stored beside the job as they come,
        so that a batch of any length costs little memory; `on_stored` is told how many are there.
        `concurrency` is how many items may run at once; `timeout` counts from now on for all of
        them, waiting included. `metadata` goes with the job's data, `meta` is kept for `batch`.

        The job's id is `batch_` with 24 digits where `options` has none; with one that is there
        already nothing is added. Raises `InvalidJob` with the faults of all items; then nothing
        stays stored.
        """
        submission = BatchSubmission(
            self._prefix,
            queue=queue,
            concurrency=concurrency,
            on_error=on_error,
            timeout=timeout,
            metadata=metadata,
            meta=meta,
            inline_limit=inline_limit,
            options=options,
            on_stored=on_stored,
        )
        try:
            if isinstance(items, AsyncIterable):
                async for item in items:
                    await self._run(submission.add(item))
            else:
                for item in items:
                    await self._run(submission.add(item))
            return await self._run(submission.finish())
        except BaseException:
            with anyio.CancelScope(shield=True):
                with suppress(RedisError):  # what stays is not kept for ever
                    await self._run(submission.abandon())
            raise

    async def batch(self, ref: JobRef) -> BatchView | None:
        """Look at a batch: how far it is; `None` where there is no such job."""
        return await self._run(look_at_batch(self._keys(ref), ref))

    async def batch_items(self, ref: JobRef, *, page: int = 100) -> AsyncIterator[ItemResult]:
        """Yield each item of a batch in order, with what became of it so far.

        Read in pages of up to `page` items, fewer where they are large. Raises `JobGone`, and
        `ItemsExpired` where a batch has ended too long ago.
        """
        flow = list_items(self._keys(ref), ref, page=page)
        reply: object = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration:
                return
            match step:
                case ItemResult():
                    yield step
                    reply = None
                case _:
                    reply = await self._carry(step, repeat=True)

    async def dead_letters(
        self, queue: str, *, where: LetterFilter | None = None, limit: int | None = 20
    ) -> list[FoundLetter]:
        """Return the dead letters of a queue that nobody has taken yet, the newest first."""
        return await self._run(find_letters(QueueKeys(self._prefix, queue), where, limit))

    async def dead_letter(self, ref: JobRef) -> DeadLetter | None:
        """Return one dead letter, which `ref` names on `<queue>-dead`; `None` where there is none."""
        return await self._run(read_letter(self._keys(ref), ref))

    async def retry_dead_letter(self, ref: JobRef) -> LetterRetry:
        """Put the job of a dead letter back on its queue, and remove the letter."""
        return await self._run(retry_letter(self._keys(ref), ref))

    async def remove(self, ref: JobRef) -> bool:
        """Remove a job, such as a dead letter; `False` where a worker has it or there is none."""
        return await self._run(remove_job(self._keys(ref), ref))

    def _overdue(self, ref: JobRef, timeout: timedelta) -> RedisUnavailable | ResultTimeout:
        if not self._link.is_connected:
            return RedisUnavailable(f"{self._link.endpoint} cannot be reached")
        return ResultTimeout(ref, timeout)

    def tokens(
        self, ref: JobRef, *, after: str | None = None, timeout: timedelta | None = None
    ) -> TokenIterator:
        """Follow what a job with `stream: true` puts out, to its end: `async for item in ...`.

        Begins at the beginning, also when the job has ended, or behind the entry `after`. An item is
        a `TokenChunk`; a `TokenRestart`, at which a reader discards what came before; a `TokenStop`,
        at which a run has failed that will be followed by another; and last a `TokenEnd`. Waits for
        a job that has not begun. Raises `NotStreamed`, `JobGone`, and `ResultTimeout` where the end
        does not come within `timeout`.
        """
        until = math.inf if timeout is None else anyio.current_time() + timeout.total_seconds()
        flow = follow(
            self._keys(ref),
            ref,
            after=after,
            poll=self._poll,
            timeout=timeout,
            left=lambda: until - anyio.current_time(),
        )
        link = BlockingLink(self._link.connector, name=None, options=LinkOptions())
        iterator = TokenIterator(
            flow,
            lambda step: self._carry(step, repeat=True),
            link,
            patience=self._patience,
            on_close=self._followed.discard,
        )
        self._followed.add(iterator)
        return iterator

    async def close(self) -> None:
        """Close the connections of token streams that were not followed to their end."""
        for iterator in tuple(self._followed):
            await iterator.aclose()

    async def _wait_for_end(
        self, keys: QueueKeys, ref: JobRef, on_progress: Callable[[JSON], None] | None
    ) -> Final:
        # Listen first, then ask: so an end between the two is not missed.
        async with self._watches.follow(keys, ref.id, ready_within=self._patience) as events:
            while True:
                final = await self._run(flows.find_end(keys, ref))
                if final is None:
                    final = await self._listen(events, on_progress)
                if final is not None:
                    return final

    async def _listen(
        self, events: Events, on_progress: Callable[[JSON], None] | None
    ) -> Final | None:
        """Return the job's end, or `None` when it is time to ask the queue itself."""
        with anyio.move_on_after(self._poll):
            async for event in events:
                if event.final is not None:
                    return event.final
                if event.kind is EventKind.REMOVED:
                    return None
                flows.tell_progress(event, on_progress)
        return None

    def _keys(self, ref: JobRef) -> QueueKeys:
        return QueueKeys(self._prefix, ref.queue)

    async def _run(self, flow: Flow[T], *, repeat: bool = True) -> T:
        """Carry a flow's calls; `repeat` says whether one may be made again when its reply is lost."""
        reply: object = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as end:
                return cast("T", end.value)
            reply = await self._carry(step, repeat=repeat)

    async def _carry(self, step: Step, *, repeat: bool) -> object:
        await self._link.wait_connected(within=self._patience)
        with anyio.move_on_after(self._patience):
            while True:
                try:
                    return await self._call(step)
                except ReplyLost:
                    if not repeat:
                        raise
        raise self._no_answer()

    def _no_answer(self) -> RedisUnavailable | ReplyLost:
        within = f"within {self._patience:g} s"
        if not self._link.is_connected:
            return RedisUnavailable(f"{self._link.endpoint} could not be reached {within}")
        return ReplyLost(f"{self._link.endpoint} did not answer {within}")

    async def _call(self, step: Step) -> object:
        if isinstance(step, ScriptCall):
            return await self._link.run_script(step.script, step.keys, step.args)
        return await self._link.call(*step.args)


@asynccontextmanager
async def open_client(
    url: str | Endpoint,
    *,
    password: str | None = None,
    prefix: str = "bull",
    patience: timedelta = PATIENCE,
    poll: timedelta = POLL,
) -> AsyncIterator[Client]:
    """Open a client for the length of the context: `async with open_client(url) as client`.

    `url` is what a worker's `redis.url` may be; where files for TLS or a login for Sentinels belong
    to it, it is an `Endpoint.from_url(...)`.
    `patience` is how long an outage is waited out, at the start and later; `poll` how often a
    job that is waited for is asked for, beside the queue's own events. Raises `ConfigError` for
    a URL that is none, and `RedisUnavailable`.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError("open_client runs on trio; elsewhere use SyncClient, in a thread")
    connector = connector_to(endpoint_of(url, password), prefix=prefix, name="prefix")
    scripts = tuple(load_script(name) for name in PRODUCER_SCRIPTS)
    failure: Exception | None = None
    async with open_link(connector, scripts=scripts) as link:
        await link.wait_connected(within=patience.total_seconds())
        async with anyio.create_task_group() as tasks:
            client = Client(link, tasks, prefix=prefix, patience=patience, poll=poll)
            try:
                yield client
            except Exception as error:  # noqa: BLE001  # raised again below, outside of the group
                failure = error
            finally:
                await client.close()  # noqa: ASYNC102  # closing sockets waits for nothing
            tasks.cancel_scope.cancel()
    # As it was raised: out of the group it would come wrapped, and could not be caught by its class.
    if failure is not None:
        raise failure

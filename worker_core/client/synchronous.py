"""The client for everybody else: the same, synchronously, over redis-py."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, cast

import attrs

from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.replies import EventKind, read_stream
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
from worker_core.client.listing import list_jobs
from worker_core.client.plain_link import PlainLink
from worker_core.client.submission import DEFAULT_QUEUES, prepare
from worker_core.client.tokens import TokenChunk, TokenEnd, TokenRestart, TokenStop, follow
from worker_core.errors import RedisError, RedisUnavailable, ReplyLost
from worker_core.redis import WrongServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import timedelta
    from types import TracebackType
    from typing import Self

    from worker_core._bullmq.adding import AddOptions
    from worker_core._bullmq.replies import Final, JobState
    from worker_core.batches import BatchItem
    from worker_core.client.batches import BatchView
    from worker_core.client.dead_letters import FoundLetter, LetterRetry
    from worker_core.client.flows import Flow, Step
    from worker_core.client.result import Result
    from worker_core.client.tokens import TokenItem
    from worker_core.client.view import JobRef, JobView
    from worker_core.dead_letters import DeadLetter
    from worker_core.engine import JSON
    from worker_core.redis import Endpoint

__all__ = ["SyncClient"]

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


@attrs.frozen
class _Wait:
    """One wait for one job; `deadline` by the monotonic clock."""

    keys: QueueKeys
    ref: JobRef
    timeout: timedelta
    deadline: float
    on_progress: Callable[[JSON], None] | None


class SyncClient:
    """Submits jobs and waits for their results: `with SyncClient(url) as client`.

    What `Client` does and raises, in the calling thread; one client may serve many threads. `url`
    is as for `open_client`.
    Entering raises `RedisUnavailable` where there is no server, making it `ConfigError` for a URL
    that is none.
    """

    def __init__(
        self,
        url: str | Endpoint,
        *,
        password: str | None = None,
        prefix: str = "bull",
        patience: timedelta = PATIENCE,
        poll: timedelta = POLL,
    ) -> None:
        endpoint = endpoint_of(url, password)
        self._prefix = prefix
        self._patience = patience.total_seconds()
        self._poll = poll.total_seconds()
        # A blocking read is answered after its block time at the latest.
        self._link = PlainLink(endpoint, prefix=prefix, reply_timeout=self._poll + self._patience)

    def __enter__(self) -> Self:
        try:
            self._carry(flows.Command(("PING",)))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._link.close()

    def submit(
        self,
        job_type: str,
        data: object,
        *,
        queue: str | None = None,
        options: AddOptions | None = None,
    ) -> JobRef:
        """Add a job and return what names it; see `Client.submit`."""
        submission = prepare(self._prefix, job_type, data, queue, options)
        return self._run(flows.submit(submission), repeat=submission.repeatable)

    def get(self, ref: JobRef) -> JobView | None:
        """Look at a job; `None` where there is none."""
        return self._run(flows.look_at(self._keys(ref), ref))

    def list_jobs(self, queue: str, *, state: JobState, limit: int = 20) -> list[JobView]:
        """Look at up to `limit` jobs in one state; see `Client.list_jobs`."""
        return self._run(list_jobs(QueueKeys(self._prefix, queue), state, limit))

    def result(
        self,
        ref: JobRef,
        *,
        timeout: timedelta,
        on_progress: Callable[[JSON], None] | None = None,
    ) -> Result:
        """Wait for the job's end and return its result; see `Client.result`."""
        wait = self._wait(ref, timeout, on_progress)
        final = self._wait_for_end(wait)
        return self._run(flows.conclude(wait.keys, ref, final), deadline=wait.deadline)

    def cancel(self, ref: JobRef, *, wait: timedelta | None = None) -> CancelOutcome:
        """Cancel a job, whatever its state; see `Client.cancel`."""
        outcome = self._run(cancel(self._keys(ref), ref))
        if outcome is not CancelOutcome.REQUESTED or wait is None:
            return outcome
        return ended_as(self._wait_for_end(self._wait(ref, wait, None)))

    def submit_batch(
        self,
        items: Iterable[BatchItem],
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
        """Submit many requests as one job; see `Client.submit_batch`."""
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
            for item in items:
                self._run(submission.add(item))
            return self._run(submission.finish())
        except BaseException:
            with suppress(RedisError):  # what stays is not kept for ever
                self._run(submission.abandon())
            raise

    def batch(self, ref: JobRef) -> BatchView | None:
        """Look at a batch: how far it is; see `Client.batch`."""
        return self._run(look_at_batch(self._keys(ref), ref))

    def batch_items(self, ref: JobRef, *, page: int = 100) -> Iterator[ItemResult]:
        """Yield each item of a batch in order; see `Client.batch_items`."""
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
                    reply = self._carry(step)

    def dead_letters(
        self, queue: str, *, where: LetterFilter | None = None, limit: int | None = 20
    ) -> list[FoundLetter]:
        """Return the dead letters of a queue that nobody has taken yet, the newest first."""
        return self._run(find_letters(QueueKeys(self._prefix, queue), where, limit))

    def dead_letter(self, ref: JobRef) -> DeadLetter | None:
        """Return one dead letter; see `Client.dead_letter`."""
        return self._run(read_letter(self._keys(ref), ref))

    def retry_dead_letter(self, ref: JobRef) -> LetterRetry:
        """Put the job of a dead letter back on its queue, and remove the letter."""
        return self._run(retry_letter(self._keys(ref), ref))

    def remove(self, ref: JobRef) -> bool:
        """Remove a job; see `Client.remove`."""
        return self._run(remove_job(self._keys(ref), ref))

    def _wait(
        self, ref: JobRef, timeout: timedelta, on_progress: Callable[[JSON], None] | None
    ) -> _Wait:
        deadline = time.monotonic() + timeout.total_seconds()
        return _Wait(self._keys(ref), ref, timeout, deadline, on_progress)

    def _wait_for_end(self, wait: _Wait) -> Final:
        # The place in the events first, then the question: so an end between the two is not missed.
        position = self._run(flows.last_event_id(wait.keys), deadline=wait.deadline)
        while True:
            final = self._run(flows.find_end(wait.keys, wait.ref), deadline=wait.deadline)
            if final is None:
                final, position = self._listen(wait, position)
            if final is not None:
                return final
            if time.monotonic() >= wait.deadline:
                raise ResultTimeout(wait.ref, wait.timeout)

    def tokens(
        self, ref: JobRef, *, after: str | None = None, timeout: timedelta | None = None
    ) -> Iterator[TokenItem]:
        """Follow what a job with `stream: true` puts out, to its end; see `Client.tokens`."""
        until = math.inf if timeout is None else time.monotonic() + timeout.total_seconds()
        flow = follow(
            self._keys(ref),
            ref,
            after=after,
            poll=self._poll,
            timeout=timeout,
            left=lambda: until - time.monotonic(),
        )
        reply: object = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration:
                return
            match step:
                case TokenChunk() | TokenRestart() | TokenStop() | TokenEnd():
                    yield step
                    reply = None
                case _:
                    reply = self._carry(step, deadline=until)

    def _listen(self, wait: _Wait, position: bytes) -> tuple[Final | None, bytes]:
        """Return the job's end, or `None` when it is time to ask the queue itself; and the place."""
        until = min(wait.deadline, time.monotonic() + self._poll)
        while (left := until - time.monotonic()) > 0:
            step = flows.read_after(wait.keys, position, round(left * 1000))
            reply = self._carry(step, deadline=wait.deadline)
            for event in read_stream(reply):
                position = event.id
                if event.job_id != wait.ref.id:
                    continue
                if event.final is not None or event.kind is EventKind.REMOVED:
                    return event.final, position
                flows.tell_progress(event, wait.on_progress)
        return None, position

    def _keys(self, ref: JobRef) -> QueueKeys:
        return QueueKeys(self._prefix, ref.queue)

    def _run(self, flow: Flow[T], *, repeat: bool = True, deadline: float = math.inf) -> T:
        """Carry a flow's calls; `repeat` says whether one may be made again when its reply is lost."""
        reply: object = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as end:
                return cast("T", end.value)
            reply = self._carry(step, repeat=repeat, deadline=deadline)

    def _carry(self, step: Step, *, repeat: bool = True, deadline: float = math.inf) -> object:
        """Make a call, through an outage as long as the client's patience or until `deadline`."""
        give_up_at = min(time.monotonic() + self._patience, deadline)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._link.carry(step)
            except (RedisUnavailable, ReplyLost) as error:
                lost = isinstance(error, ReplyLost) and not repeat
                if lost or isinstance(error, WrongServer) or time.monotonic() + pause >= give_up_at:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

"""Micro-batches: what several jobs wait for at the same time becomes one call, for any job type.

A job type owns a `Batcher` and enters it with itself::

    class VectorJobType(JobType[VectorRequest]):
        def __init__(self) -> None:
            self._batcher = Batcher(
                self._call,
                batch_size=32,
                batch_timeout=timedelta(milliseconds=50),
                slots={queue.name: queue.concurrency for queue in self.queues},
                blame=blame_of,
            )

        async def __aenter__(self) -> Self:
            await self._batcher.__aenter__()
            return self

        def nothing_waits(self, queue: str) -> None:
            self._batcher.nothing_waits(queue)

        async def run(self, request: VectorRequest, context: JobContext) -> list[float]:
            return await self._batcher.submit(request.model, request.text, queue=context.job.queue)

Each job keeps what is its own: its deadline and its cancellation act on its `submit`, which then
leaves the batch, and its failure is the failure of its own item.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import anyio
import attrs

from worker_core.batch_policy import BatchPolicy
from worker_core.errors import JobError, WorkerCoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
    from datetime import timedelta
    from types import TracebackType

    from anyio.abc import TaskGroup

    from worker_core.batch_policy import Batch

__all__ = ["Batcher", "Blame", "BrokenCall"]

KeyT = TypeVar("KeyT", bound="Hashable")
ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


class Blame(enum.Enum):
    """What a call that failed may owe its failure to."""

    CALL = "call"
    """The call as a whole: every item fails."""
    ITEM = "item"
    """An item: the call is halved until each item at fault fails alone."""
    UNCLEAR = "unclear"
    """Either: it is halved as long as one of the halves goes through. If neither does, it was not
    the items', and a server in trouble is not called once for each of them."""


class BrokenCall(JobError):
    """A call raised what is no error of worker-core's, or did not answer item for item."""


@attrs.define(eq=False)
class _Waiter(Generic[ItemT, AnswerT]):
    """One `submit`: its item on the way in, its answer or error on the way out."""

    item: ItemT
    done: anyio.Event = attrs.field(factory=anyio.Event)
    answers: tuple[AnswerT, ...] = ()
    """One, when it has its answer."""
    error: Exception | None = None
    call: _Call[ItemT, AnswerT] | None = None
    has_left: bool = False

    def outcome(self) -> AnswerT:
        """Return the answer, or raise an error of its own: one shared would gather all traces."""
        if self.error is not None:
            raise _copied(self.error) from self.error
        return self.answers[0]


@attrs.define(eq=False)
class _Call(Generic[ItemT, AnswerT]):
    """One call under way; without anybody who waits for it, it is cancelled."""

    waiting: int
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)

    def leave(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self.scope.cancel()


@attrs.frozen(eq=False)
class _Failure(Generic[ItemT, AnswerT]):
    """A call that failed, and whom it was made for."""

    waiters: Sequence[_Waiter[ItemT, AnswerT]]
    error: Exception
    blame: Blame


class Batcher(Generic[KeyT, ItemT, AnswerT]):
    """Collects what jobs submit into calls; an async context manager, whose tasks make the calls.

    `call(key, items)` returns an answer for each item, in order. One call of a key is made at a
    time. It begins with `batch_size` units, `batch_timeout` after its first item came, or at once
    when nothing else can join: every queue in `slots` has told through `nothing_waits` that no job
    waits in it, or its slots (`None` where their number is not known) all hold items already.
    """

    def __init__(
        self,
        call: Callable[[KeyT, Sequence[ItemT]], Awaitable[Sequence[AnswerT]]],
        *,
        batch_size: int,
        batch_timeout: timedelta,
        slots: Mapping[str, int | None],
        blame: Callable[[Exception], Blame] = lambda _: Blame.CALL,
    ) -> None:
        self._make_call = call
        self._blame = blame
        self._policy: BatchPolicy[KeyT, _Waiter[ItemT, AnswerT]] = BatchPolicy(
            batch_size=batch_size, patience_seconds=batch_timeout.total_seconds(), slots=slots
        )
        self._tasks: TaskGroup | None = None
        self._changed = anyio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._start_calls, self._tasks)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tasks is None:
            return
        tasks, self._tasks = self._tasks, None
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(kind, error, trace)  # noqa: ASYNC102  # its tasks are cancelled; what they close is bounded

    def nothing_waits(self, queue: str) -> None:
        """Learn that no job waits in a queue; for `JobType.nothing_waits`."""
        self._policy.nothing_waits(queue)
        self._changed.set()

    async def submit(self, key: KeyT, item: ItemT, *, queue: str, units: int = 1) -> AnswerT:
        """Wait for the answer to an item: part of one call with others of the same key.

        `queue` is the one that its job came from; one that is not in `slots`, as that of a job
        within which others run, may bring more at any time. A job may submit one item after the
        other, not several at a time: each is taken to hold one of the queue's slots. Raises what the call
        raised, where the item was at fault or none was.
        """
        if self._tasks is None:
            raise RuntimeError("the batcher has not been entered")
        waiter: _Waiter[ItemT, AnswerT] = _Waiter(item)
        self._policy.add(key, waiter, units=units, queue=queue, now=anyio.current_time())
        self._changed.set()
        try:
            await waiter.done.wait()
        finally:
            self._leave(waiter)
        return waiter.outcome()

    def _leave(self, waiter: _Waiter[ItemT, AnswerT]) -> None:
        waiter.has_left = True
        self._release(waiter)
        if waiter.call is not None:
            waiter.call.leave()

    def _release(self, waiter: _Waiter[ItemT, AnswerT]) -> None:
        # With an answer it gives its slot free before its job has noticed: a call that would
        # begin now may wait for the job that the slot takes next.
        self._policy.release(waiter)
        self._changed.set()

    async def _start_calls(self, tasks: TaskGroup) -> None:
        while True:
            self._changed = anyio.Event()
            for batch in self._policy.take(anyio.current_time()):
                tasks.start_soon(self._run_call, batch)
            with anyio.CancelScope(deadline=self._policy.next_due()):
                await self._changed.wait()

    async def _run_call(self, batch: Batch[KeyT, _Waiter[ItemT, AnswerT]]) -> None:
        call: _Call[ItemT, AnswerT] = _Call(len(batch.items))
        for waiter in batch.items:
            waiter.call = call
            if waiter.has_left:
                call.leave()
        try:
            with call.scope:
                await self._answer(batch.key, batch.items)
        finally:
            self._policy.call_ended(batch.key)
            self._changed.set()

    async def _answer(self, key: KeyT, waiters: Sequence[_Waiter[ItemT, AnswerT]]) -> None:
        """Make a call until each of the waiters has an answer or an error."""
        failure = await self._attempt(key, waiters)
        if failure is not None:
            await self._find_fault(key, failure)

    async def _attempt(
        self, key: KeyT, waiters: Sequence[_Waiter[ItemT, AnswerT]]
    ) -> _Failure[ItemT, AnswerT] | None:
        """Call once, for those who are still there, and hand out the answers if there are any."""
        there = [waiter for waiter in waiters if not waiter.has_left]
        if not there:
            return None
        try:
            answers = await self._make_call(key, [waiter.item for waiter in there])
            if len(answers) != len(there):
                raise BrokenCall(f"a call answered {len(there)} items with {len(answers)} answers")
        except Exception as error:  # noqa: BLE001  # it belongs to the jobs, whatever it is
            return _Failure(there, error, self._blame(error))
        for waiter, answer in zip(there, answers, strict=True):
            waiter.answers = (answer,)
            self._finish(waiter)
        return None

    async def _find_fault(self, key: KeyT, failure: _Failure[ItemT, AnswerT]) -> None:
        """Halve a call that has failed, so that an item at fault fails alone."""
        # Who was in it counts, not who is left: a call of two does not tell which it was.
        waiters = failure.waiters
        if failure.blame is Blame.CALL or len(waiters) == 1:
            self._fail(waiters, failure.error)
            return
        middle = len(waiters) // 2
        failures: list[_Failure[ItemT, AnswerT]] = []
        for half in (waiters[:middle], waiters[middle:]):
            failed = await self._attempt(key, half)
            if failed is None:
                continue
            if failed.blame is Blame.CALL:
                # What it says of one half it would say of the other.
                self._fail(waiters, failed.error)
                return
            failures.append(failed)
        neither = len(failures) == 2 and failure.blame is Blame.UNCLEAR
        for failed in failures:
            if neither and failed.blame is Blame.UNCLEAR:
                self._fail(failed.waiters, failed.error)
            else:
                await self._find_fault(key, failed)

    def _fail(self, waiters: Sequence[_Waiter[ItemT, AnswerT]], error: Exception) -> None:
        for waiter in waiters:
            if not waiter.answers:
                waiter.error = error
                self._finish(waiter)

    def _finish(self, waiter: _Waiter[ItemT, AnswerT]) -> None:
        self._release(waiter)
        waiter.done.set()


def _copied(error: Exception) -> Exception:
    """Return the same error as an object of its own."""
    if not isinstance(error, WorkerCoreError):
        return BrokenCall(f"the call that the job was part of raised {error!r}")
    # Past the constructors: they make the message out of what they are given.
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(vars(error))
    return copy

"""The children of a running job, asked for in Redis when the job asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import attrs

from worker_core._bullmq.adding import Parent, add, read_added
from worker_core._bullmq.flows import ChildKeys, read_texts
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.telemetry import read_telemetry
from worker_core.add_options import AddOptions, ChildFailure
from worker_core.errors import InvalidRequest, ReplyLost
from worker_core.strict_json import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker_core._bullmq.job import StoredJob
    from worker_core._bullmq.queue import Queue
    from worker_core.engine import JSON

__all__ = ["Children"]

T = TypeVar("T")


class Children:
    """What `worker_core.children.ChildJobs` promises, for one run of a job."""

    def __init__(self, queue: Queue, job: StoredJob) -> None:
        self._queue = queue
        self._job = job
        self._keys = ChildKeys(queue.keys.job(job.id))

    async def values(self) -> Mapping[str, JSON]:
        """Return what the children that completed have returned."""
        texts = read_texts(await self._ask("HGETALL", self._keys.values))
        return {child: _read_value(raw) for child, raw in texts.items()}

    async def failures(self) -> Mapping[str, str]:
        """Return why children failed whose failure does not fail this job."""
        texts = read_texts(await self._ask("HGETALL", self._keys.failures))
        return {child: reason.decode("utf-8", "replace") for child, reason in texts.items()}

    async def pending(self) -> int:
        """Return how many children this job would wait for."""
        count = await self._ask("SCARD", self._keys.pending)
        return count if isinstance(count, int) else 0

    async def add(
        self,
        queue: str,
        data: object,
        *,
        name: str = "child",
        if_it_fails: ChildFailure = ChildFailure.WAIT,
        options: AddOptions | None = None,
    ) -> str:
        """Add a child and return its key."""
        chosen = self._complete(options or AddOptions())
        keys = QueueKeys(self._queue.keys.prefix, queue)
        parent = Parent(keys=self._queue.keys, id=self._job.id, if_child_fails=if_it_fails)
        call = add(keys, name, dumps(data), chosen, parent)
        reply = await _until_answered(lambda: self._queue.run(call))
        return keys.job(read_added(reply))

    def _complete(self, options: AddOptions) -> AddOptions:
        """Add what the child has from its parent, and an id: so a lost reply can be asked again."""
        if options.job_id is None:
            options = attrs.evolve(options, job_id=str(uuid4()))
        if options.telemetry is None and not options.omit_telemetry:
            passed_on = read_telemetry(self._job.raw_options).passed_on
            options = attrs.evolve(options, telemetry=passed_on)
        return options

    async def _ask(self, *command: str) -> object:
        return await _until_answered(lambda: self._queue.link.call(*command))


async def _until_answered(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call that may run twice without harm; the job's own clock ends this."""
    while True:
        try:
            return await call()
        except ReplyLost:
            continue


def _read_value(raw: bytes) -> JSON:
    """Read a child's return value; what is not JSON, from whatever worker, is text."""
    try:
        return loads(raw)
    except InvalidRequest:
        return raw.decode("utf-8", "replace")

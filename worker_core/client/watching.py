"""The events of queues, read once for all who wait for a job of that queue."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeAlias

import anyio
import structlog

from worker_core._bullmq.replies import QueueEvent, read_stream
from worker_core.client.flows import last_event_id, read_after
from worker_core.errors import RedisError
from worker_core.redis import open_blocking_link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from anyio.abc import TaskGroup
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from worker_core._bullmq.keys import QueueKeys
    from worker_core.client.flows import Flow
    from worker_core.redis import BlockingLink, Connector

    Events: TypeAlias = MemoryObjectReceiveStream[QueueEvent]

__all__ = ["Watches"]

_log = structlog.get_logger("worker_core.client")

_LINGER_SECONDS = 30.0
"""How long a queue is watched with nobody waiting: the next one is likely to come soon."""
_BLOCK_SECONDS = 5.0
_MARGIN_SECONDS = 1.0
"""What a reply may need on its way once the server's block time is over."""
_PAUSE_SECONDS = 0.5


class Watches:
    """One watch for each queue that somebody waits on, in the client's task group."""

    def __init__(
        self,
        tasks: TaskGroup,
        connector: Connector,
        ask: Callable[[Flow[bytes]], Awaitable[bytes]],
    ) -> None:
        self._tasks = tasks
        self._connector = connector
        self._ask = ask
        self._watches: dict[str, _Watch] = {}

    @asynccontextmanager
    async def follow(
        self, keys: QueueKeys, job_id: str, *, ready_within: float
    ) -> AsyncIterator[Events]:
        """Receive the job's events from now on; whatever is asked behind this call misses none.

        Where the events cannot be read within `ready_within` seconds, they come when they can.
        """
        watch = self._watches.get(keys.base)
        if watch is None or watch.ended:
            watch = self._watches[keys.base] = _Watch(keys, self._connector, self._ask)
            self._tasks.start_soon(watch.run)
        # Without a bound, for the reader must not wait for a waiter; one reads its own at once.
        send, receive = anyio.create_memory_object_stream[QueueEvent](math.inf)
        with send, receive, watch.joined(job_id, send):
            with anyio.move_on_after(ready_within):
                await watch.ready.wait()
            yield receive


class _Watch:
    """Reads the events of one queue until nobody has waited for a while."""

    def __init__(
        self,
        keys: QueueKeys,
        connector: Connector,
        ask: Callable[[Flow[bytes]], Awaitable[bytes]],
    ) -> None:
        self._keys = keys
        self._connector = connector
        self._ask = ask
        self._waiting: dict[str, list[MemoryObjectSendStream[QueueEvent]]] = {}
        self._scope = anyio.CancelScope()
        self._position: bytes | None = None
        self.ready = anyio.Event()

    @property
    def ended(self) -> bool:
        """Whether it reads no more."""
        return self._scope.cancel_called

    @contextmanager
    def joined(self, job_id: str, send: MemoryObjectSendStream[QueueEvent]) -> Iterator[None]:
        """Hand the job's events to `send` for the length of the context."""
        self._waiting.setdefault(job_id, []).append(send)
        self._scope.deadline = math.inf
        try:
            yield
        finally:
            senders = self._waiting[job_id]
            senders.remove(send)
            if not senders:
                del self._waiting[job_id]
            if not self._waiting:
                self._scope.deadline = anyio.current_time() + _LINGER_SECONDS

    async def run(self) -> None:
        """Read until the scope ends, through every outage."""
        with self._scope:
            async with open_blocking_link(self._connector) as link:
                while True:
                    try:
                        await self._read(link)
                    except RedisError as error:
                        # Reading changes nothing, so it is simply done again from where it was;
                        # whoever waits asks the queue itself now and then.
                        _log.debug(
                            "events cannot be read", queue=self._keys.name, reason=str(error)
                        )
                        await anyio.sleep(_PAUSE_SECONDS)

    async def _read(self, link: BlockingLink) -> None:
        if self._position is None:
            self._position = await self._ask(last_event_id(self._keys))
            self.ready.set()
        step = read_after(self._keys, self._position, round(_BLOCK_SECONDS * 1000))
        reply = await link.call(*step.args, within=_BLOCK_SECONDS + _MARGIN_SECONDS)
        for event in read_stream(reply):
            self._position = event.id
            for send in self._waiting.get(event.job_id, ()):
                send.send_nowait(event)

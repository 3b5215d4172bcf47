"""One connection's worth of a link: a writer, a reader, the calls in flight, and how it ended.

Replies carry no number: the n-th belongs to the n-th call sent. Hence one at a time sends (the
writer, or a caller while the writer does not), one task reads, and a call stays in the line until
its reply has come, whether or not anyone still waits.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio
import trio

from worker_core.errors import ReplyError, ReplyLost
from worker_core.redis.connection import BROKEN, REFUSALS, Connection, describe
from worker_core.redis.outbox import Call, Outbox
from worker_core.redis.resp import pack
from worker_core.redis.wire import EagerWire, wire_of

if TYPE_CHECKING:
    from worker_core.redis.options import LinkOptions
    from worker_core.redis.script import Script

__all__ = ["Session"]

# What one send takes from the outbox. A loss in the middle of a send is a loss of all of it, so
# the number bounds how many calls an outage leaves in doubt; larger sends are no faster.
_SEND_BYTES = 65536
_READ_BYTES = 262144
_PAGE_BYTES = 4096
_FEW = 12
"""With so few calls in flight the server is about to have nothing to do: a call that leaves at once
brings more than calls that leave together save."""

# A server that is asked to load the same script again and again is being flushed in a loop.
_MAX_LOADS = 5

# After a silence of this process itself (a long stop, a blocked loop) the replies may lie unread
# in the socket: so long the reader gets before the server is blamed.
_GRACE = 0.05

_PING = pack("PING")


class Session:
    """Carries calls from the outbox over one connection until that ends."""

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        options: LinkOptions,
        scripts: dict[Script, None],
    ) -> None:
        self._connection = connection
        self._wire = wire_of(connection.stream)
        self._eager = self._wire if isinstance(self._wire, EagerWire) else None
        self._outbox = outbox
        self._options = options
        self._scripts = scripts
        self._in_flight: deque[Call] = deque()
        self._refused: list[Call] = []
        self._unknown: dict[Script, list[Call]] = {}
        self._scope: anyio.CancelScope | None = None
        self._sending = False
        self._idle = anyio.Event()
        self._last_sent = trio.current_time()
        self.reason: str | None = None
        """Why it ended; `None` while it runs and when it was cancelled."""
        self.refusal: str | None = None
        """The server's words when it serves nobody right now."""
        self.served = False
        """Whether any call got its answer."""

    @property
    def in_flight(self) -> int:
        """How many calls were sent and wait for their reply."""
        return len(self._in_flight)

    def send_at_once(self, call: Call) -> bool:
        """Send a call without waking the writer, where the server has little to do."""
        eager = self._eager
        if (
            eager is None
            or len(self._in_flight) > _FEW
            or self._outbox
            or self._sending
            or self.reason is not None
            or self.refusal is not None
            # With so little on its way there is always room for a page.
            or len(call.data) > _PAGE_BYTES
        ):
            return False
        try:
            sent = eager.send_at_once(call.data)
        except OSError:
            return False  # the connection is broken, which its reader will learn as well
        if not sent:
            return False
        call.sent_at = self._last_sent = trio.current_time()
        self._in_flight.append(call)
        if sent < len(call.data):
            self._end("the socket took a part of a call")
        return True

    async def run(self) -> None:
        """Carry calls until the connection is lost or given up; `reason` says why."""
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                tasks.start_soon(self._write)
                tasks.start_soon(self._read)
                tasks.start_soon(self._watch)
        finally:
            self._settle()
            await self._connection.close()  # noqa: ASYNC102  # close() shields itself and waits for nothing

    async def wait_idle(self) -> None:
        """Return once everything queued was sent and answered, or the session ended."""
        while self.reason is None and (self._in_flight or self._outbox):
            self._idle = anyio.Event()
            await self._idle.wait()

    def _end(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
        if self._scope is not None:
            self._scope.cancel()

    def _settle(self) -> None:
        """Give every call of this connection its outcome."""
        reason = self.reason or "the link is closing"
        for call in self._in_flight:
            call.fail(ReplyLost(f"sent, but its reply never came: {reason}"))
        self._in_flight.clear()
        # Without their load: the next connection begins with it.
        for calls in self._unknown.values():
            self._outbox.put_back(calls)
        self._outbox.put_back(self._refused)
        self._idle.set()

    async def _write(self) -> None:
        send = self._wire.send
        try:
            while True:
                await self._outbox.wait()
                # Woken in the same moment as ended: what is not taken now is sent later, while
                # what is taken and never leaves would be reported lost.
                if self.refusal is not None or self.reason is not None:
                    return
                batch = self._outbox.take(_SEND_BYTES)
                self._last_sent = now = trio.current_time()
                for call in batch:
                    call.sent_at = now
                # In flight before the send and not after it: replies to the first of them can
                # arrive while the rest is still being written.
                self._in_flight.extend(batch)
                self._sending = True
                await send(b"".join([call.data for call in batch]))
                self._sending = False
        except BROKEN as error:
            self._end(describe(error))

    async def _read(self) -> None:
        receive = self._wire.receive
        feed = self._connection.parser.feed
        next_reply = self._connection.parser.gets
        in_flight = self._in_flight
        try:
            while True:
                feed(await receive(_READ_BYTES))
                while (reply := next_reply()) is not False:
                    if not in_flight:
                        self._end(f"the server sent what nobody asked for: {reply!r:.100}")
                        return
                    call = in_flight.popleft()
                    if type(reply) is ReplyError:
                        self._take_error(call, reply)
                    else:
                        call.answer(reply)
                        self.served = True
                self._after_replies()
        except BROKEN as error:
            self._end(describe(error))

    def _take_error(self, call: Call, error: ReplyError) -> None:
        if error.code in REFUSALS:
            self.refusal = str(error)
            self._refused.append(call)
        elif error.code == "NOSCRIPT" and call.script is not None and call.loads < _MAX_LOADS:
            call.loads += 1
            self._scripts.setdefault(call.script)  # each later connection begins with it
            self._unknown.setdefault(call.script, []).append(call)
        else:
            self.served = True
            call.fail(error)

    def _after_replies(self) -> None:
        if self._unknown:
            self._load_unknown()
        # What is still in flight was sent before the refusal was known and will be answered too,
        # most likely by the same refusal: to leave at once would put all of it in doubt.
        if self.refusal is not None and not self._in_flight:
            self._end(f"the server refuses to serve: {self.refusal}")
        if not self._in_flight:
            self._idle.set()

    def _load_unknown(self) -> None:
        """Send each unknown script once, and behind it the calls that wanted it."""
        for script, calls in self._unknown.items():
            load = Call(pack("SCRIPT", "LOAD", script.source))
            self._outbox.put_back([load, *calls])
        self._unknown.clear()

    async def _watch(self) -> None:
        """End the session when a reply is overdue; ask an idle server whether it is there."""
        limit = self._options.reply_timeout
        interval = self._options.ping_interval
        while True:
            now = trio.current_time()
            if not self._in_flight:
                if now - self._last_sent >= interval and not self._outbox:
                    self._outbox.put_back([Call(_PING)])
                await anyio.sleep(min(limit, interval))
                continue
            oldest = self._in_flight[0]
            await anyio.sleep(max(oldest.sent_at + limit - now, _GRACE))
            overdue = trio.current_time() - oldest.sent_at >= limit
            if overdue and await self._still_first(oldest):
                self._end(f"no reply within {limit:g} s")
                return

    async def _still_first(self, call: Call) -> bool:
        await anyio.sleep(_GRACE)
        return bool(self._in_flight) and self._in_flight[0] is call

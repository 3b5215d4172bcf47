"""The queue link: many callers share one connection that comes back by itself."""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs
import trio

from worker_core.errors import LinkClosed, RedisError, RedisUnavailable
from worker_core.redis.cluster import WrongServer
from worker_core.redis.connecting import connector_to
from worker_core.redis.connection import connect
from worker_core.redis.endpoint import Endpoint
from worker_core.redis.options import LinkOptions
from worker_core.redis.outbox import Call, Outbox
from worker_core.redis.resp import Arg, Head, Reply, pack
from worker_core.redis.script import Script, ScriptHead
from worker_core.redis.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from worker_core.redis.connection import Connection
    from worker_core.redis.topology import Connector

__all__ = ["Link", "LinkState", "open_link"]

_RANDOM = random.SystemRandom()
# The standard library's: applications that use the client have a say in what becomes of it.
_log = logging.getLogger(__name__)


@attrs.frozen
class LinkState:
    """What an observer of a link is told at each change."""

    connected: bool
    reason: str | None
    """Why there is no connection; `None` while there is one."""
    reconnects: int


class Link:
    """Calls to one server: sent at once while few are in flight, else together; replied in order.

    An outage is waited out: a call that was not yet sent is sent after the reconnect, one that
    was sent and not answered raises `ReplyLost`, and nothing is sent twice unless the server
    said that it did not execute it (NOSCRIPT, READONLY, LOADING, MASTERDOWN, and in a Cluster
    MOVED and its like). Bound the wait of a call with a cancel scope; cancelling withdraws a call
    that was not sent, but one that was sent may still be executed. Commands that change the
    connection itself (SELECT, MULTI, SUBSCRIBE, CLIENT REPLY) or block are not for a link that is
    shared.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        scripts: Iterable[Script],
        options: LinkOptions,
        name: str | None,
        on_state: Callable[[LinkState], None] | None,
    ) -> None:
        self._connector = connector
        self._scripts = dict.fromkeys(scripts)
        self._options = options
        self._name = name
        self._on_state = on_state
        self._outbox = Outbox(options)
        self._session: Session | None = None
        self._changed = anyio.Event()
        self._closed = False
        self._reason: str | None = "not connected yet"
        self._connects = 0
        self._hopeless = False

    @property
    def connector(self) -> Connector:
        """How the server is found; other links get to the same one by it."""
        return self._connector

    @property
    def endpoint(self) -> Endpoint:
        """The server's address and credentials."""
        return self._connector.endpoint

    @property
    def is_connected(self) -> bool:
        """Whether calls can be sent right now."""
        # A session that has ended still has its socket to close.
        return self._session is not None and self._session.reason is None

    @property
    def reconnects(self) -> int:
        """How often a connection was made after the first."""
        return max(self._connects - 1, 0)

    @property
    def queued(self) -> int:
        """How many calls wait to be sent."""
        return len(self._outbox)

    @property
    def in_flight(self) -> int:
        """How many calls were sent and wait for their reply, cancelled ones among them."""
        return 0 if self._session is None else self._session.in_flight

    async def call(self, *args: Arg) -> Reply:
        """Make one call and return its reply.

        Raises `ReplyError` (the server refused it), `ReplyLost` (sent, unknown whether executed),
        `RedisUnavailable` (too many calls wait already) or `LinkClosed`.
        """
        return await self._carry(Call(pack(*args)))

    def run(self, head: Head, *args: Arg) -> Awaitable[Reply]:
        """Make the call that begins with a head that was packed before; raises as `call` does."""
        script = head.script if isinstance(head, ScriptHead) else None
        return self._carry(Call(head.pack(args), script))

    def run_packed(self, script: Script, data: bytes) -> Awaitable[Reply]:
        """Make a call of a script that its caller has packed whole; raises as `call` does."""
        return self._carry(Call(data, script))

    async def run_script(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg] = ()
    ) -> Reply:
        """Run a script, by its SHA-1 where the server knows it; raises as `call` does."""
        return await self.run(script.bind(keys), *args)

    def post(self, *args: Arg) -> None:
        """Make a call whose reply nobody waits for; what becomes of it is not told.

        It waits out an outage as any call does, is dropped with a debug message when the bounds
        of the link or its end forbid to keep it, and is never sent twice.
        """
        self._drop_or_queue(Call(pack(*args)))

    def post_run(self, head: Head, *args: Arg) -> None:
        """Post the call that begins with a head that was packed before."""
        script = head.script if isinstance(head, ScriptHead) else None
        self._drop_or_queue(Call(head.pack(args), script))

    async def wait_connected(self, *, within: float) -> None:
        """Return once there is a connection; raises `RedisUnavailable` after `within` seconds.

        At once where the first server that answered is one that will never do.
        """
        with anyio.move_on_after(within):
            while not self.is_connected:
                self._refuse_if_closed()
                if self._hopeless:
                    raise WrongServer(f"{self.endpoint} cannot be used: {self._reason}")
                await self._changed.wait()
            return
        raise RedisUnavailable(
            f"{self.endpoint} could not be reached within {within:g} s: {self._reason}"
        )

    async def _carry(self, call: Call) -> Reply:
        self._refuse_if_closed()
        # Without it a caller that is cancelled already could be sent.
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._session is None or not self._session.send_at_once(call):
            self._outbox.put(call)
        call.waiter = trio.lowlevel.current_task()

        def give_up(_: object) -> trio.lowlevel.Abort:
            # Here and not after the wait: the writer may run before the cancelled task does.
            call.waiter = None
            self._outbox.withdraw(call)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)
        if call.error is not None:
            raise call.error
        return call.reply

    def _drop_or_queue(self, call: Call) -> None:
        try:
            self._refuse_if_closed()
            self._outbox.put(call)
        except RedisError as error:
            call.fail(error)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise LinkClosed(f"the link to {self.endpoint} is closed")

    async def supervise(self) -> None:
        """Connect, carry calls until the connection ends, wait, and again; until cancelled."""
        failures = 0
        refusal: str | None = None
        while True:
            try:
                connection = await connect(
                    self._connector,
                    timeout=self._options.connect_timeout,
                    name=self._name,
                    scripts=tuple(self._scripts),
                    doubted=refusal is not None,
                )
            except RedisUnavailable as error:
                # Later it may be a mistake in the midst of a failover, which passes.
                self._hopeless = isinstance(error, WrongServer) and not self._connects
                self._disconnected(str(error))
            else:
                session = await self._serve(connection)
                refusal = session.refusal
                # A server that only ever takes connections to end or refuse them is treated as
                # one that is away; otherwise that would be a loop without a pause.
                if session.served and refusal is None:
                    failures = 0
                self._disconnected(session.reason)
            await anyio.sleep(self._options.backoff.delay(failures, _RANDOM))
            failures += 1

    async def _serve(self, connection: Connection) -> Session:
        session = Session(connection, self._outbox, self._options, self._scripts)
        self._session = session
        self._connects += 1
        self._tell(None)
        try:
            await session.run()
        finally:
            self._session = None
        return session

    def _disconnected(self, reason: str | None) -> None:
        # One warning for each new reason: an outage of an hour is not a thousand lines.
        level = logging.DEBUG if reason == self._reason else logging.WARNING
        _log.log(level, "no connection to %s: %s", self.endpoint, reason)
        self._tell(reason)

    def _tell(self, reason: str | None) -> None:
        if reason is None:
            _log.debug("connected to %s", self.endpoint)
        self._reason = reason
        self._changed.set()
        self._changed = anyio.Event()
        if self._on_state is None:
            return
        try:
            self._on_state(LinkState(self.is_connected, reason, self.reconnects))
        except Exception:  # noqa: BLE001  # logged; whoever only watches must not end the link
            _log.exception("an observer of the link failed")

    async def flush(self) -> None:
        """Take no more calls, and wait a bounded time for those that can still be carried."""
        self._closed = True
        with anyio.move_on_after(self._options.close_timeout):
            while self.queued or self.in_flight:
                if self._session is not None and self.is_connected:
                    await self._session.wait_idle()
                else:
                    await self._changed.wait()

    def close(self) -> None:
        """Take no more calls, and end those that were never sent."""
        self._closed = True
        for call in self._outbox.drain():
            call.fail(
                LinkClosed(f"the link to {self.endpoint} was closed before the call was sent")
            )
        self._changed.set()


@asynccontextmanager
async def open_link(
    endpoint: Endpoint | Connector,
    *,
    scripts: Iterable[Script] = (),
    options: LinkOptions | None = None,
    name: str | None = None,
    on_state: Callable[[LinkState], None] | None = None,
) -> AsyncIterator[Link]:
    """Open a link for the length of the context; it connects in the background.

    `scripts` are loaded at each connect in front of any call, `name` is what CLIENT LIST shows,
    and `on_state` hears of each change. At the end, calls not yet sent raise `LinkClosed`, sent
    ones `ReplyLost`, after at most `options.close_timeout` seconds for what can still be carried.
    """
    connector = connector_to(endpoint) if isinstance(endpoint, Endpoint) else endpoint
    link = Link(
        connector, scripts=scripts, options=options or LinkOptions(), name=name, on_state=on_state
    )
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.supervise)
            tasks.start_soon(connector.watch)
            try:
                yield link
            except Exception as error:  # noqa: BLE001  # raised again below, outside of the group
                failure = error
            await link.flush()
            tasks.cancel_scope.cancel()
    finally:
        # Only now: the ending session may have put calls back.
        link.close()
    # The body's error as it was raised: out of the group it would come wrapped, and callers
    # could not catch it by its class.
    if failure is not None:
        raise failure

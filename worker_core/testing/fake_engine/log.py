"""The log of the fake engine: what it saw, request by request."""

from __future__ import annotations

import enum
import time
from collections import deque
from typing import TYPE_CHECKING

import anyio
import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LoggedRequest", "RequestLog", "RequestOutcome"]

_DEFAULT_LIMIT = 200_000
_LOOK_EVERY = 0.01


class RequestOutcome(enum.Enum):
    """How a request ended, as the server saw it."""

    RUNNING = "running"
    ANSWERED = "answered"
    REFUSED = "refused"
    """Answered with a status of 400 or more, by the rules and not by a script."""
    FAULT = "fault"
    """A scripted fault changed its end."""
    DISCONNECTED = "disconnected"
    """The client went before the end of the answer."""
    CLOSED = "closed"
    """The fake engine itself was closed."""


@attrs.define(kw_only=True, eq=False)
class LoggedRequest:
    """One request. The server writes it while the request runs; everybody else only reads."""

    id: int
    method: str
    path: str
    started: float
    """Seconds of this machine's monotonic clock."""
    started_wall: float
    """Seconds since the epoch."""
    in_flight: int
    """Requests under way when it came, itself included."""
    model: str = ""
    stream: bool = False
    inputs: int = 0
    """Messages of a chat, inputs of an embedding, 1 for a prompt."""
    beginnings: tuple[str, ...] = ()
    """The first words of each of them, by which a test may know what it sent."""
    options: tuple[str, ...] = ()
    """The names of the options, in their order."""
    keep_alive: float | str | None = None
    authorized: bool = False
    """Whether it brought an `Authorization` header."""
    loaded: bool = False
    """Whether it loaded its model."""
    load_seconds: float = 0.0
    """What it waited for loads, its own and others' before it."""
    status: int | None = None
    chunks: int = 0
    """Lines written."""
    fault: str | None = None
    """The action of the scripted fault that struck it."""
    disconnected: bool = False
    outcome: RequestOutcome = RequestOutcome.RUNNING
    ended: float | None = None
    ended_wall: float | None = None


@attrs.define(eq=False)
class _Waiter:
    holds: Callable[[RequestLog], bool]
    event: anyio.Event


class RequestLog:
    """All requests but those under `/_fake/`, oldest first; the oldest go when it is full."""

    def __init__(self, limit: int = _DEFAULT_LIMIT) -> None:
        self._requests: deque[LoggedRequest] = deque(maxlen=limit)
        self._waiters: list[_Waiter] = []
        self._next_id = 1
        self.in_flight = 0
        self.peak_in_flight = 0
        self.loads = 0
        """Loads that came to their end."""
        self.loads_aborted = 0
        """Loads ended early since their client went."""
        self.reloads = 0
        """Loads of a model that was loaded already, with other options."""
        self.unloads = 0

    @property
    def requests(self) -> tuple[LoggedRequest, ...]:
        """Every request that is still kept."""
        return tuple(self._requests)

    @property
    def total(self) -> int:
        """How many requests came since the last `clear`."""
        return self._next_id - 1

    def select(self, path: str | None = None, model: str | None = None) -> list[LoggedRequest]:
        """Return the requests of that path and of that model (as the request spelt it)."""
        return [
            request
            for request in self._requests
            if (path is None or request.path == path) and (model is None or request.model == model)
        ]

    def count(self, path: str | None = None, model: str | None = None) -> int:
        """Count what `select` returns."""
        return len(self.select(path, model))

    async def wait_until(self, holds: Callable[[RequestLog], bool], *, within: float = 5.0) -> None:
        """Wait until `holds(log)`, looked at whenever a request begins or ends and every 10 ms.

        Raises `TimeoutError` after `within` seconds.
        """
        if holds(self):
            return
        waiter = _Waiter(holds, anyio.Event())
        self._waiters.append(waiter)
        try:
            with anyio.fail_after(within):
                # Lines are not announced one by one, for speed: hence the look now and then.
                while not waiter.event.is_set() and not holds(self):
                    with anyio.move_on_after(_LOOK_EVERY):
                        await waiter.event.wait()
        finally:
            self._waiters.remove(waiter)

    def begin(self, method: str, path: str, *, authorized: bool) -> LoggedRequest:
        """Note that a request has come."""
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        entry = LoggedRequest(
            id=self._next_id,
            method=method,
            path=path,
            started=time.monotonic(),
            started_wall=time.time(),
            in_flight=self.in_flight,
            authorized=authorized,
        )
        self._next_id += 1
        self._requests.append(entry)
        self.changed()
        return entry

    def end(self, entry: LoggedRequest, outcome: RequestOutcome) -> None:
        """Note how a request ended."""
        self.in_flight -= 1
        entry.outcome = outcome
        entry.disconnected = outcome is RequestOutcome.DISCONNECTED
        entry.ended = time.monotonic()
        entry.ended_wall = time.time()
        self.changed()

    def changed(self) -> None:
        """Wake whoever waits for what holds now."""
        for waiter in self._waiters:
            if waiter.holds(self):
                waiter.event.set()

    def clear(self) -> None:
        """Forget every request that has ended, and all counts."""
        running = [entry for entry in self._requests if entry.outcome is RequestOutcome.RUNNING]
        self._requests.clear()
        self._requests.extend(running)
        self._next_id = 1
        self.peak_in_flight = self.in_flight
        self.loads = self.loads_aborted = self.reloads = self.unloads = 0

"""Places on a host: how many calls may be in flight, and who comes next."""

from __future__ import annotations

import heapq
import itertools
from typing import Protocol, TypeAlias

import anyio
import attrs

__all__ = ["ArrivalOrder", "PlacePolicy", "Places", "Ticket"]


@attrs.frozen
class Ticket:
    """Somebody who asks for a place."""

    model: str
    express: bool
    arrival: int


Rank: TypeAlias = tuple[int, ...]


class PlacePolicy(Protocol):
    """Who comes next: the lowest rank."""

    def rank(self, ticket: Ticket) -> Rank:
        """Return the ticket's rank; equal ranks are served by arrival."""
        ...


class ArrivalOrder:
    """Express lanes first, then in order of arrival."""

    def rank(self, ticket: Ticket) -> Rank:
        """Return 0 for express, 1 for others; arrival decides among equals."""
        return (0 if ticket.express else 1,)


class Places:
    """The places of one host. A place that is free goes to the waiting ticket of lowest rank."""

    def __init__(self, total: int, policy: PlacePolicy) -> None:
        self._free = total
        self._policy = policy
        self._arrivals = itertools.count()
        self._waiting: list[tuple[Rank, int, anyio.Event]] = []

    async def acquire(self, model: str, *, express: bool) -> None:
        """Wait for a place and take it; every place taken must be released."""
        ticket = Ticket(model, express, next(self._arrivals))
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn = anyio.Event()
        heapq.heappush(self._waiting, (self._policy.rank(ticket), ticket.arrival, turn))
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                # Served and cancelled in the same moment: the place goes on to the next.
                self.release()
            else:
                self._waiting = [entry for entry in self._waiting if entry[2] is not turn]
                heapq.heapify(self._waiting)
            raise

    def release(self) -> None:
        """Give a place back."""
        if self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            turn.set()  # the place is handed over, never free in between
        else:
            self._free += 1

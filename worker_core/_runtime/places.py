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
    share: float
    """How much of the places those who give way may hold together while others wait; 1 for those
    who do not."""
    arrival: int

    @property
    def gives_way(self) -> bool:
        """Whether it is among those who leave places to others."""
        return self.share < 1


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


@attrs.define(order=True)
class _Waiter:
    """A ticket in its line."""

    rank: Rank
    arrival: int
    ticket: Ticket = attrs.field(order=False)
    turn: anyio.Event = attrs.field(factory=anyio.Event, order=False)


class Places:
    """The places of one host. One that is free goes to the waiting ticket of lowest rank.

    Tickets that give way are held to their share as long as others wait. Nothing is taken from
    them: it is the next place that goes to somebody else.
    """

    def __init__(self, total: int, policy: PlacePolicy) -> None:
        self._total = total
        self._free = total
        self._policy = policy
        self._arrivals = itertools.count()
        self._waiting: list[_Waiter] = []
        self._giving_way: list[_Waiter] = []
        self._lent = 0
        """How many places are held by those who give way."""
        self._owed = 0.0
        """What they have due of the next place where their share is less than one place."""

    async def acquire(self, model: str, *, express: bool, share: float = 1.0) -> Ticket:
        """Wait for a place and take it; every place taken must be released."""
        ticket = Ticket(model, express, share, next(self._arrivals))
        if self._free:  # then nobody waits
            self._free -= 1
            self._lent += ticket.gives_way
            return ticket
        waiter = _Waiter(self._policy.rank(ticket), ticket.arrival, ticket)
        heapq.heappush(self._line_of(ticket), waiter)
        try:
            await waiter.turn.wait()
        except BaseException:
            if waiter.turn.is_set():
                # Served and cancelled in the same moment: the place goes on to the next.
                self.release(ticket)
            else:
                line = self._line_of(ticket)
                line.remove(waiter)
                heapq.heapify(line)
            raise
        return ticket

    def release(self, ticket: Ticket) -> None:
        """Give a place back."""
        self._lent -= ticket.gives_way
        if not (self._waiting or self._giving_way):
            self._free += 1
            return
        # The place is handed over, never free in between.
        waiter = heapq.heappop(self._choose_line())
        self._lent += waiter.ticket.gives_way
        waiter.turn.set()

    def _line_of(self, ticket: Ticket) -> list[_Waiter]:
        return self._giving_way if ticket.gives_way else self._waiting

    def _choose_line(self) -> list[_Waiter]:
        """Say which line the next place goes to; one of them is not empty."""
        if not (self._waiting and self._giving_way):
            return self._waiting or self._giving_way
        candidate = self._giving_way[0]
        share = candidate.ticket.share
        if self._total * share < 1:
            # Less than one place is a part of the time that a place is there: one turn in so many.
            if self._owed < 1:
                self._owed += share / (1 - share)
                return self._waiting
            self._owed -= 1
            return self._giving_way
        within = self._lent + 1 <= self._total * share
        return self._giving_way if within and candidate < self._waiting[0] else self._waiting

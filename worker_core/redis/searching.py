"""Finding a server by asking others; without the asking, so that each client asks in its own way."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

from worker_core.redis.endpoint import Endpoint
from worker_core.redis.resp import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker_core.redis.endpoint import Address
    from worker_core.redis.resp import Arg

__all__ = ["Question", "Search", "Searcher", "Turns"]


@attrs.frozen
class Question:
    """One call to one server, on a connection of its own."""

    to: Endpoint
    args: tuple[Arg, ...]


Search: TypeAlias = Generator[Question, Reply, Endpoint]
"""Yields questions; is sent the reply or thrown a `RedisError`; returns the server or raises
`RedisUnavailable`."""


class Searcher(Protocol):
    """Knows whom to ask for a server, and learns from the answers."""

    def search(self) -> Search:
        """Begin a search."""
        ...

    def news(self) -> Question | None:
        """Return how to hear that the server was replaced; `None`: it says so itself."""
        ...


class Turns:
    """Addresses to ask in turn: each round begins with the next one.

    One that is cut off from the others and answers with what is no longer true must not be the
    first to be asked for ever.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._given = tuple(addresses)
        self._known = self._given
        self._round = 0

    def next(self) -> tuple[Address, ...]:
        """Return the addresses in this round's order."""
        known = self._known
        first = self._round % len(known)
        self._round += 1
        return known[first:] + known[:first]

    def learn(self, addresses: Sequence[Address]) -> None:
        """Ask these from now on as well, in place of those learnt before."""
        self._known = tuple(dict.fromkeys((*self._given, *addresses)))

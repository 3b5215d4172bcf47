"""What is measured in which order: turn by turn, so that no peer has the quiet minutes alone."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

import attrs

from benchmarks.bench_queue.measures import AT_REST, Idle, Memory, Pickup, Throughput
from benchmarks.bench_queue.peers import Peer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.bench_queue.samples import Figure

__all__ = ["FULL", "QUICK", "Measure", "Part", "Size", "Turn", "turns"]


class Part(enum.Enum):
    """What a run consists of."""

    THROUGHPUT = "throughput"
    PICKUP = "pickup"
    MEMORY = "memory"
    IDLE = "idle"


class Measure(Protocol):
    """One measurement of one peer."""

    @property
    def case(self) -> int:
        """What its figures depend on."""
        ...

    def measure(self, peer: Peer) -> Mapping[Figure, float]:
        """Take it."""
        ...


@attrs.frozen(kw_only=True)
class Size:
    """How thorough a run is."""

    rounds: int
    memory_rounds: int
    jobs: int
    """Of a backlog with several slots."""
    warm_up: int
    pickups: int
    """In each round."""
    idle_seconds: float


FULL = Size(rounds=5, memory_rounds=3, jobs=60_000, warm_up=5_000, pickups=150, idle_seconds=30.0)
QUICK = Size(rounds=2, memory_rounds=1, jobs=30_000, warm_up=3_000, pickups=50, idle_seconds=10.0)

_SLOTS_OF_THE_REST = 50
_SLOTS_OF_WAITING = 1000
_ONE_SLOT_SHARE = 3
"""One slot does fewer jobs a second, and the official Python worker many fewer: so that a round
takes about as long for everyone, their backlogs are shorter by so much."""
_PYTHON_SHARE = 8


@attrs.frozen
class Turn:
    """One measurement to be taken."""

    round: int
    peer: Peer
    measure: Measure


def turns(
    size: Size, *, peers: Sequence[Peer], slots: Sequence[int], parts: Sequence[Part]
) -> Iterator[Turn]:
    """Return every measurement of a run, in the order in which they are taken."""
    for part in parts:
        for number in range(_rounds(part, size)):
            # Who goes first goes last the next time.
            order = peers if number % 2 == 0 else peers[::-1]
            for case in _cases(part, slots):
                for peer in order:
                    yield Turn(number, peer, _measure(part, size, case, peer))


def _rounds(part: Part, size: Size) -> int:
    match part:
        case Part.THROUGHPUT | Part.PICKUP:
            return size.rounds
        case Part.MEMORY:
            return size.memory_rounds
        case Part.IDLE:
            return 1


def _cases(part: Part, slots: Sequence[int]) -> Sequence[int]:
    match part:
        case Part.THROUGHPUT:
            return slots
        case Part.MEMORY:
            return (AT_REST, 1, 100, 1000)
        case Part.PICKUP | Part.IDLE:
            return (_SLOTS_OF_THE_REST,)


def _measure(part: Part, size: Size, case: int, peer: Peer) -> Measure:
    slower = _PYTHON_SHARE if peer is Peer.PYTHON else 1
    match part:
        case Part.THROUGHPUT:
            share = slower * (_ONE_SLOT_SHARE if case == 1 else 1)
            return Throughput(case, size.jobs // share, size.warm_up // share)
        case Part.PICKUP:
            return Pickup(case, size.pickups, size.warm_up // slower)
        case Part.MEMORY:
            return Memory(_SLOTS_OF_THE_REST if case == AT_REST else _SLOTS_OF_WAITING, case)
        case Part.IDLE:
            return Idle(case, size.idle_seconds)

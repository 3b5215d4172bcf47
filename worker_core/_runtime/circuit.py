"""One circuit: counts how calls end, opens when too many fail, and finds out when they do no more.

Pure: the time is passed in, in seconds of any clock that does not go back.

::

                 too many failures                 its time is over
        CLOSED ────────────────────► OPEN ◄─────────────────────────► HALF_OPEN
           ▲                                     a probe failed            │
           └───────────────────────────────────────────────────────────────┘
                                 every probe succeeded
"""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import TYPE_CHECKING

import attrs

from worker_core.circuit import CircuitState

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core.circuit import CircuitLimits

__all__ = ["CallEnd", "Circuit", "Permit"]

_PARTS = 10
"""The window slides in so many steps, so that a busy circuit remembers no more than a quiet one."""
_JITTER = 0.2
"""The share of an open time that is left to chance: the workers of an engine must not all come back
at the same moment."""


class CallEnd(enum.Enum):
    """What the end of a call says of whoever was called."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SAYS_NOTHING = "says_nothing"
    """It was cancelled, say, or refused for what stands in it."""


class Permit:
    """The leave to make one call; whoever took it must say how the call ended."""

    __slots__ = ("_circuit", "_ended", "_period")

    def __init__(self, circuit: Circuit, period: int) -> None:
        self._circuit = circuit
        self._period = period
        self._ended = False

    def end(self, how: CallEnd, now: float) -> None:
        """Say how the call ended; once."""
        assert not self._ended, "a permit is given back once"
        self._ended = True
        self._circuit._end(how, self._period, now)  # noqa: SLF001  # two halves of one object


@attrs.define
class _Part:
    """A part of the window: what was counted in it."""

    number: int
    calls: int = 0
    failures: int = 0


class _Window:
    """How calls ended lately."""

    def __init__(self, seconds: float) -> None:
        self._part_seconds = seconds / _PARTS
        self._parts: deque[_Part] = deque()

    def count(self, now: float, *, failed: bool) -> None:
        number = self._slide(now)
        if not self._parts or self._parts[-1].number != number:
            self._parts.append(_Part(number))
        self._parts[-1].calls += 1
        self._parts[-1].failures += failed

    def clear(self) -> None:
        self._parts.clear()

    def totals(self, now: float) -> tuple[int, int]:
        """Return how many calls there were, and how many of them failed."""
        self._slide(now)
        return sum(part.calls for part in self._parts), sum(part.failures for part in self._parts)

    def _slide(self, now: float) -> int:
        number = math.floor(now / self._part_seconds)
        while self._parts and self._parts[0].number <= number - _PARTS:
            self._parts.popleft()
        return number


class Circuit:
    """A circuit, closed at first. `random` gives numbers in [0, 1) for the jitter."""

    def __init__(self, limits: CircuitLimits, random: Callable[[], float]) -> None:
        self._limits = limits
        self._random = random
        self._state = CircuitState.CLOSED
        self._period = 0
        """Counts the changes of state: calls of an earlier period say nothing of this one."""
        self._window = _Window(limits.window.total_seconds())
        self._in_a_row = 0
        self._opens_again_at = 0.0
        self._openings = 0
        """How often it has opened without having been closed for a whole window."""
        self._closed_at = -math.inf
        self._probing = 0
        self._probed = 0
        """How many probes have succeeded."""

    def state(self, now: float) -> CircuitState:
        """Return the state."""
        if self._state is CircuitState.OPEN and now >= self._opens_again_at:
            self._enter(CircuitState.HALF_OPEN)
        return self._state

    def allows(self, now: float) -> bool:
        """Tell whether a call would be let through."""
        match self.state(now):
            case CircuitState.CLOSED:
                return True
            case CircuitState.OPEN:
                return False
            case CircuitState.HALF_OPEN:
                return self._probing + self._probed < self._limits.probes

    def take(self, now: float) -> Permit:
        """Take the leave to make a call, which there must be."""
        assert self.allows(now)
        self._probing += self._state is CircuitState.HALF_OPEN
        return Permit(self, self._period)

    def seconds_open(self, now: float) -> float:
        """Return how long it stays open; nothing where it is not."""
        return self._opens_again_at - now if self.state(now) is CircuitState.OPEN else 0.0

    def totals(self, now: float) -> tuple[int, int]:
        """Return how many calls the window has, and how many of them failed; those of the period
        before where it is not closed."""
        return self._window.totals(now)

    def reset(self) -> None:
        """Close it, and forget what was counted."""
        self._openings = 0
        self._enter(CircuitState.CLOSED)
        self._closed_at = -math.inf

    def _end(self, how: CallEnd, period: int, now: float) -> None:
        half_open = self.state(now) is CircuitState.HALF_OPEN
        if period != self._period:
            return
        self._probing -= half_open
        match how:
            case CallEnd.SAYS_NOTHING:
                return
            case CallEnd.SUCCEEDED if half_open:
                self._probed += 1
                if self._probed >= self._limits.probes:
                    self._enter(CircuitState.CLOSED)
                    self._closed_at = now
            case CallEnd.SUCCEEDED:
                self._in_a_row = 0
                self._window.count(now, failed=False)
            case CallEnd.FAILED:
                self._in_a_row += 1
                self._window.count(now, failed=True)
                if half_open or self._fails_too_often(now):
                    self._open(now)

    def _fails_too_often(self, now: float) -> bool:
        limits = self._limits
        calls, failures = self._window.totals(now)
        return self._in_a_row >= limits.consecutive or (
            calls >= limits.min_calls and failures / calls >= limits.failure_share
        )

    def _open(self, now: float) -> None:
        limits = self._limits
        was_well = (
            self._state is CircuitState.CLOSED
            and now - self._closed_at >= limits.window.total_seconds()
        )
        self._openings = 1 if was_well else self._openings + 1
        # The exponent is bounded as a float is: an engine may be away for weeks.
        longest = limits.open_for.total_seconds() * 2.0 ** min(self._openings - 1, 100)
        seconds = min(longest, limits.max_open.total_seconds())
        self._opens_again_at = now + seconds * (1 - _JITTER * self._random())
        self._enter(CircuitState.OPEN)

    def _enter(self, state: CircuitState) -> None:
        self._state = state
        self._period += 1
        self._probing = self._probed = 0
        if state is CircuitState.CLOSED:
            self._in_a_row = 0
            self._window.clear()

"""What may stop one job: its clock, the drain, a user's wish, a lost lock; and the recorded reason."""

from __future__ import annotations

import enum
import math
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RETURN_SECONDS", "JobScope", "StopReason"]

RETURN_SECONDS = 5.0
"""How long putting jobs back may take once the grace is over."""


_LONG_SECONDS = 60.0
"""A bound from which on it does not matter whether it is kept to the second."""


class StopReason(enum.Enum):
    """Why a job was stopped."""

    DEADLINE = "deadline"
    """Its own time ran out."""
    DRAIN = "drain"
    """The worker stops and the grace is over."""
    CANCELLED = "cancelled"
    """Somebody wishes that it does not run."""
    LOCK_LOST = "lock_lost"
    """Another worker may run it by now."""


_RANKS = {
    StopReason.DEADLINE: 0,
    StopReason.DRAIN: 0,
    StopReason.CANCELLED: 1,
    StopReason.LOCK_LOST: 2,
}


class JobScope:
    """What may stop one job, and why it was stopped.

    It acts on a cancel scope of the job's slot, shielded from everything but the jobs' own reasons.
    Jobs that end by themselves leave it to the next one; one that is stopped spends it, and is
    settled in another.

    The job's clock stands still while it is paused (during admission); the drain's does not, and
    may only shorten. Whoever sets a deadline says what it means, so that the reason for a cancel is
    read from here and never worked out from clocks.
    """

    # trio's own scope and clock, entered once for many jobs: one of anyio's for each would be a
    # fifth of what a quick job costs.

    __slots__ = (
        "_drain_at",
        "_expires_for",
        "_left",
        "_limit",
        "_over",
        "_pauses",
        "_reason",
        "_settle_by",
        "_shield",
        "_since",
    )

    def __init__(self, shield: trio.CancelScope) -> None:
        self._shield = shield
        self._reason: StopReason | None = None
        self._expires_for = StopReason.DEADLINE
        self._limit = math.inf
        self._left = math.inf
        self._since = 0.0
        self._pauses = 0
        self._drain_at = math.inf
        self._settle_by: float | None = None
        self._over = False

    def note_stop(self) -> None:
        """Record why the run was stopped, if it was; also where its cleanup raised an error then."""
        if self._shield.cancel_called and self._reason is None and self._settle_by is None:
            self._reason = self._expires_for

    def settle_within(self, seconds: float) -> bool:
        """End the run: from here on its outcome is written, within so many seconds.

        `False` where the run was stopped: nothing more can be awaited in its shield, and the
        outcome is written in `settling`.
        """
        if self._shield.cancel_called:
            return False
        self._settle_by = trio.current_time() + seconds
        # Mostly it is over in a millisecond: a long bound is set by `enforce` if it is not.
        if seconds < _LONG_SECONDS or self._drain_at != math.inf or self._left != math.inf:
            self._apply()
        return True

    def enforce(self) -> None:
        """Set the bound of a settlement that takes long; to be called now and then."""
        if self._settle_by is not None:
            self._apply()

    @contextmanager
    def settling(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Write the outcome of a run that was stopped; left early when its bound passes.

        The scope that it yields says so by `cancelled_caught`.
        """
        self._shield = trio.CancelScope(shield=True)
        self.settle_within(seconds)
        self._apply()
        with self._shield as bound:
            yield bound

    def end(self) -> None:
        """Leave the shield to the next job: what this one left behind changes nothing any more."""
        if self._shield.deadline != math.inf:
            self._shield.deadline = math.inf
        self._over = True

    @property
    def is_settling(self) -> bool:
        """Whether the run is over and its outcome is being written."""
        return self._settle_by is not None

    @property
    def is_draining(self) -> bool:
        """Whether the drain has begun, for which it will be stopped if it still runs at its end."""
        return self._drain_at != math.inf

    @property
    def reason(self) -> StopReason | None:
        """Why the job was stopped, or `None`."""
        return self._reason

    @property
    def seconds_left(self) -> float:
        """What is left on the job's own clock; infinite without a limit."""
        if self._pauses or self._left is math.inf:
            return self._left
        return self._left - (trio.current_time() - self._since)

    @property
    def time_left(self) -> timedelta | None:
        """The same, `None` without a limit."""
        left = self.seconds_left
        return None if left is math.inf else timedelta(seconds=left)

    def limit(self, seconds: float) -> None:
        """Start the job's own clock."""
        self._limit = seconds
        self._left, self._since = seconds, trio.current_time()
        self._apply()

    @property
    def limit_text(self) -> str:
        """The job's own time, for messages."""
        return f"{self._limit:g} s"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the job's own clock for the body; may be nested, and entered by several tasks."""
        if not self._pauses:
            self._left = self.seconds_left
        self._pauses += 1
        self._apply()
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._since = trio.current_time()
                self._apply()

    def end_by(self, at: float) -> None:
        """Stop the job for the drain at this time of the loop's clock, if it still runs then."""
        if at < self._drain_at:
            self._drain_at = at
            self._apply()

    def cancel(self, reason: StopReason) -> None:
        """Stop the job's run now; its settlement is not stopped."""
        if self._settle_by is not None or self._over:
            # Every script that settles checks the lock itself. And after a lost reply a renewal
            # may find the lock gone because the finish has run: that must still be found out.
            return
        # A lost lock outranks what was recorded: it forbids writing anything. A wish outranks the
        # clocks, for nobody wants the run that would follow.
        if self._reason is None or _RANKS[reason] > _RANKS[self._reason]:
            self._reason = reason
        self._shield.cancel()

    def _apply(self) -> None:
        if self._over:
            return
        if self._settle_by is not None:
            # A call that the job left behind may still pause its clock: that is over. The drain
            # shortens this bound too, and leaves it time to put the job back.
            self._shield.deadline = min(self._settle_by, self._drain_at + RETURN_SECONDS)
            return
        if self._shield.cancel_called:
            return  # stopped already: what for must not change while the job ends
        own = math.inf if self._pauses else self._since + self._left
        self._expires_for = StopReason.DRAIN if self._drain_at <= own else StopReason.DEADLINE
        self._shield.deadline = min(own, self._drain_at)

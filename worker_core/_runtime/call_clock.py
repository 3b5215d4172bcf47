"""The clocks of one engine call."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import attrs

from worker_core.engine import HostLimits, Operation
from worker_core.errors import EngineError, FailureClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_core.engine import Host
    from worker_core.fallback import CallLimits

__all__ = ["CallClock"]


class CallClock:
    """The clocks of one call: first token, between tokens, total. Each piece is a sign of life.

    The deadline in force carries the words for what it waits for, so the failure need not guess.
    """

    def __init__(self, shorter: CallLimits) -> None:
        self._shorter = shorter
        self._limits = HostLimits()
        self._scope = anyio.CancelScope()
        self._ends_at = math.inf
        self._waiting_for = ""
        self.began_at = 0.0
        self.first_at: float | None = None

    @contextmanager
    def running(self, host: Host, operation: Operation) -> Iterator[None]:
        """Make the call in the body; raises `EngineError` when a clock runs out."""
        self._limits = _shortened(host.limits, self._shorter)
        self.began_at = anyio.current_time()
        self._ends_at = self.began_at + self._limits.total_timeout.total_seconds()
        # Vectors come all at once: only the whole has a clock there.
        first = math.inf if operation is Operation.EMBED else self._first_token_seconds
        self._expect("first token", first)
        with self._scope:
            yield
        if self._scope.cancelled_caught:
            raise EngineError(FailureClass.TIMEOUT, f"{host.name} gave no {self._waiting_for}")

    @property
    def _first_token_seconds(self) -> float:
        return self._limits.first_token_timeout.total_seconds()

    def beat(self) -> None:
        """Note a sign of life."""
        if self.first_at is None:
            self.first_at = anyio.current_time()
        self._expect("next token", self._limits.between_tokens_timeout.total_seconds())

    def _expect(self, what: str, seconds: float) -> None:
        at = anyio.current_time() + seconds
        if at < self._ends_at:
            self._scope.deadline, self._waiting_for = at, f"{what} within {seconds:g} s"
        else:
            total = self._limits.total_timeout.total_seconds()
            self._scope.deadline, self._waiting_for = self._ends_at, f"whole answer in {total:g} s"


def _shortened(limits: HostLimits, shorter: CallLimits) -> HostLimits:
    clocks = attrs.asdict(shorter, recurse=False)
    changed = {
        name: min(limit, getattr(limits, name))
        for name, limit in clocks.items()
        if limit is not None
    }
    return attrs.evolve(limits, **changed) if changed else limits

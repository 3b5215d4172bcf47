"""Sends what jobs had to hold back for a moment: one task for all of them, asleep while none do."""

from __future__ import annotations

import math
from typing import Protocol

import anyio

__all__ = ["Pump", "Sender"]

_PAUSE_SECONDS = 0.01
"""Between two rounds: many jobs that are due one after the other are sent together."""


class Sender(Protocol):
    """Somebody who may send again at a time of the loop's clock."""

    @property
    def due_at(self) -> float:
        """When."""
        ...

    def flush(self) -> None:
        """Send what waits, if anything does; must not block."""
        ...


class Pump:
    """Wakes each sender that waits when it is due."""

    def __init__(self) -> None:
        self._waiting: dict[Sender, None] = {}
        self._wake = anyio.Event()
        self._wakes_at = math.inf

    def remember(self, sender: Sender) -> None:
        """Let the sender send when it is due."""
        self._waiting[sender] = None
        if sender.due_at < self._wakes_at:
            self._wake.set()

    def forget(self, sender: Sender) -> None:
        """Wake this sender no more."""
        self._waiting.pop(sender, None)

    async def run(self) -> None:
        """Send until cancelled."""
        earliest = -math.inf
        while True:
            self._wake = anyio.Event()
            first = min((sender.due_at for sender in self._waiting), default=math.inf)
            self._wakes_at = max(first, earliest)
            with anyio.CancelScope(deadline=self._wakes_at):
                await self._wake.wait()
            now = anyio.current_time()
            due = [sender for sender in self._waiting if sender.due_at <= now]
            if not due or now < earliest:
                continue
            for sender in due:
                del self._waiting[sender]
                sender.flush()
            earliest = now + _PAUSE_SECONDS

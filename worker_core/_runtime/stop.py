"""The wish to stop: requested once, by whomever; hurried by the operator alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterator

from contextlib import contextmanager

__all__ = ["Stop"]


class Stop:
    """The stop of one worker, from the first request on."""

    def __init__(self) -> None:
        self.requested = anyio.Event()
        self.hurried = anyio.Event()
        self._starting: anyio.CancelScope | None = None

    def request(self) -> bool:
        """Ask for the stop; `False` when it had been asked for before."""
        if self.requested.is_set():
            return False
        self.requested.set()
        if self._starting is not None:
            self._starting.cancel()
        return True

    def hurry(self) -> None:
        """Skip the grace."""
        self.request()
        self.hurried.set()

    @contextmanager
    def ends(self, scope: anyio.CancelScope) -> Iterator[None]:
        """Let a request cancel `scope` while the body runs, and at once if there was one before."""
        if self.requested.is_set():
            scope.cancel()
        self._starting = scope
        try:
            yield
        finally:
            self._starting = None

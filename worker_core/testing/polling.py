"""Waiting in tests: for a condition, with a bound, never for a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["eventually", "eventually_async"]

T = TypeVar("T")

_INTERVAL_SECONDS = 0.01


def eventually(condition: Callable[[], T], *, within: float = 10.0, what: str = "") -> T:
    """Return the first true value of `condition`; raise `AssertionError` after `within` seconds."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or condition}")
        time.sleep(_INTERVAL_SECONDS)
    return value


async def eventually_async(
    condition: Callable[[], T | Awaitable[T]], *, within: float = 10.0, what: str = ""
) -> T:
    """Do the same in a task; `condition` may be async."""
    deadline = anyio.current_time() + within
    while True:
        value = condition()
        if hasattr(value, "__await__"):
            value = await value
        if value:
            return value
        if anyio.current_time() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or condition}")
        await anyio.sleep(_INTERVAL_SECONDS)

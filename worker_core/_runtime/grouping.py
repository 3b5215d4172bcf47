"""How the pieces of an answer are put together on their way to its readers. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from worker_core.engine import JSON, ChatChunk

__all__ = ["Group", "Grouping"]

_INTERVAL_SECONDS = 0.05
_MOST_PIECES = 64


@attrs.frozen
class Group:
    """Pieces put together, each kind in its order."""

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[JSON, ...] = ()


class Grouping:
    """Puts pieces together: sent at most 20 times a second, or when 64 are together.

    The first piece goes at once, and so does one that comes after a pause. `now` is any clock's.
    """

    __slots__ = ("_content", "_count", "_thinking", "_tool_calls", "due_at")

    def __init__(self) -> None:
        self.due_at = -math.inf
        """From when on what waits may be sent."""
        self._count = 0
        self._content = ""
        self._thinking = ""
        self._tool_calls: list[JSON] = []

    def add(self, piece: ChatChunk, now: float) -> bool:
        """Take a piece and tell whether what waits is to be sent now."""
        # Joined here: what is no text fails in the task that has put it out.
        self._content += piece.content
        self._thinking += piece.thinking
        self._tool_calls.extend(piece.tool_calls)
        self._count += 1
        return now >= self.due_at or self._count >= _MOST_PIECES

    def take(self, now: float, *, last: bool = False) -> Group | None:
        """Return what waits, as sent now; `None` where there is nothing to send.

        Half a character (a surrogate) waits for its other half, but not at the `last`.
        """
        content, self._content = _cut(self._content, last=last)
        thinking, self._thinking = _cut(self._thinking, last=last)
        tool_calls = tuple(self._tool_calls)
        self._tool_calls.clear()
        self._count = 0
        if not (content or thinking or tool_calls):
            return None
        self.due_at = now + _INTERVAL_SECONDS
        return Group(content, thinking, tool_calls)

    def clear(self) -> None:
        """Drop what waits."""
        self._content, self._thinking, self._count = "", "", 0
        self._tool_calls.clear()

    def put_off(self, now: float) -> None:
        """Let what waits wait on: it cannot be sent now."""
        self.due_at = now + _INTERVAL_SECONDS


def _cut(text: str, *, last: bool) -> tuple[str, str]:
    """Return the text without the half character at its end, and that."""
    if not last and text and "\ud800" <= text[-1] <= "\udbff":
        return text[:-1], text[-1]
    return text, ""

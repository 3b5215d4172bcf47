"""Lines out of a stream of bytes, however the network cut it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_LINE", "LineSplitter", "LineTooLong"]

MAX_LINE = 16 * 1024 * 1024
"""Bytes; far over any line of Ollama's, so that a server gone mad cannot fill the memory."""


class LineTooLong(ValueError):
    """A line is longer than `MAX_LINE`."""


class LineSplitter:
    """Collects bytes and hands out whole lines without their ends; blank lines are left out."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that `data` completes; raises `LineTooLong`."""
        *whole, rest = data.split(b"\n")
        for line in whole:
            yield from self._complete(line)
        if rest:
            self._rest.append(rest)
            self._size += len(rest)
            if self._size > MAX_LINE:
                raise LineTooLong

    def finish(self) -> Iterator[bytes]:
        """Yield the last line, if the stream ended without an end of line."""
        yield from self._complete(b"")

    def _complete(self, end: bytes) -> Iterator[bytes]:
        line = b"".join([*self._rest, end]).strip() if self._rest else end.strip()
        self._rest.clear()
        self._size = 0
        if line:
            yield line

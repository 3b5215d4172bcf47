"""A file that is there as a whole or not at all."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["OutputFile"]


class OutputFile:
    """Written to a name beside its own, which it takes when the context ends well.

    `-` is standard output. What is no regular file, such as a pipe, is written to at once.
    Without a line it is made only where it is `wanted`. Raises `OSError`.
    """

    def __init__(self, name: str, *, wanted: bool) -> None:
        self._name = name
        self._wanted = wanted
        self._file: BinaryIO | None = None
        self._part: Path | None = None
        self.lines = 0

    def __enter__(self) -> Self:
        if self._wanted:
            self._file = self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        if self._name == "-":
            self._file.flush()
            return
        try:
            self._file.close()
            if self._part is not None and kind is None:
                self._part.replace(self._target)
                self._part = None
        finally:
            if self._part is not None:
                self._part.unlink(missing_ok=True)

    def write(self, line: bytes) -> None:
        """Write one line."""
        if self._file is None:
            self._file = self._open()
        self._file.write(line)
        self.lines += 1

    @property
    def _target(self) -> Path:
        # Through a link, to what it points to: the link stays.
        return Path(self._name).resolve()

    def _open(self) -> BinaryIO:
        if self._name == "-":
            return sys.stdout.buffer
        target = self._target
        if target.exists() and not target.is_file():
            return target.open("wb")
        self._part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        return self._part.open("xb")

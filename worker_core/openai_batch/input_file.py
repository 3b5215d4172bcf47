"""An input file, read twice as a stream: first to find what is wrong with it, then for its items."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, BinaryIO

import attrs

from worker_core.openai_batch.faults import BadInputFile, FaultCode, FaultList, LineFault
from worker_core.openai_batch.lines import BadLine, RequestLine, read_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker_core.batches import BatchItem
    from worker_core.openai_batch.endpoint import Endpoint

__all__ = ["MAX_BYTES", "Contents", "inspect", "items_of"]

MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 1024 * 1024
MAX_INPUTS = 50_000
"""Texts to be embedded, of all requests together."""
MAX_LINE_BYTES = 16 * 1024 * 1024
"""Ours: a line is held as a whole, by the command and by the worker."""


@attrs.frozen(kw_only=True)
class Contents:
    """What a file holds in which nothing is wrong."""

    endpoint: Endpoint
    requests: int
    model: str | None
    """The one that all requests ask; `None` where they ask several."""


@attrs.frozen
class _Line:
    number: int
    text: bytes
    end: int
    """Bytes of the file, this line included."""


def inspect(file: BinaryIO, *, on_read: Callable[[int], None] | None = None) -> Contents:
    """Read a file from its beginning; raises `BadInputFile` with the faults of all lines.

    `on_read` is told how many bytes were read by then.
    """
    inspection = _Inspection()
    try:
        for line in _lines(file, inspection.faults):
            inspection.look_at(line)
            if on_read is not None:
                on_read(line.end)
    except _OverLimit as error:
        inspection.faults.add(error.fault)
    return inspection.conclude()


def items_of(file: BinaryIO, contents: Contents) -> Iterator[BatchItem]:
    """Yield the items of a file that was inspected; raises `BadInputFile` if it is another by now."""
    faults = FaultList()
    count = 0
    try:
        for line in _lines(file, faults):
            yield read_line(line.text, line.number).item
            count += 1
    except (BadLine, _OverLimit):
        count = -1
    if count != contents.requests or faults.named:
        raise BadInputFile([LineFault(None, FaultCode.CHANGED, "the file changed meanwhile")])


class _OverLimit(Exception):
    """There is more than may be; what follows is not read."""

    def __init__(self, fault: LineFault) -> None:
        self.fault = fault
        super().__init__(str(fault))


def _lines(file: BinaryIO, faults: FaultList) -> Iterator[_Line]:
    """Yield the lines that are not blank; those that are too long are noted and left out."""
    file.seek(0)
    total = 0
    number = 0
    while text := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        total += len(text)
        if len(text) > MAX_LINE_BYTES and not text.endswith(b"\n"):
            total += _skip_line(file)
            words = f"longer than {MAX_LINE_BYTES} bytes"
            faults.add(LineFault(number, FaultCode.TOO_LARGE, words))
            text = b""
        if total > MAX_BYTES:
            words = f"the file is larger than {MAX_BYTES} bytes"
            raise _OverLimit(LineFault(None, FaultCode.TOO_LARGE, words))
        if number == 1:
            text = text.removeprefix(codecs.BOM_UTF8)
        if text.strip():
            yield _Line(number, text.rstrip(b"\r\n"), total)


def _skip_line(file: BinaryIO) -> int:
    """Read the rest of a line, without keeping it, and return its bytes."""
    skipped = 0
    while part := file.readline(1024 * 1024):
        skipped += len(part)
        if part.endswith(b"\n") or skipped > MAX_BYTES:
            break
    return skipped


class _Inspection:
    """Looks at lines one by one, and keeps of them what the others are held against."""

    def __init__(self) -> None:
        self.faults = FaultList()
        self._requests = 0
        self._inputs = 0
        self._lines_by_id: dict[str, int] = {}
        self._first: RequestLine | None = None
        self._first_number = 0
        self._models: set[str] = set()

    def look_at(self, line: _Line) -> None:
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            words = f"more than {MAX_REQUESTS} requests"
            raise _OverLimit(LineFault(line.number, FaultCode.TOO_MANY_REQUESTS, words))
        try:
            request = read_line(line.text, line.number)
        except BadLine as error:
            for fault in error.faults:
                self.faults.add(fault)
            self._check_id(error.custom_id, line.number)
            return
        self._check_id(request.item.custom_id, line.number)
        self._check_url(request, line.number)
        if len(self._models) < 2:
            self._models.add(request.model)
        self._inputs += request.inputs
        if self._inputs > MAX_INPUTS:
            words = f"more than {MAX_INPUTS} texts to be embedded"
            raise _OverLimit(LineFault(line.number, FaultCode.TOO_MANY_INPUTS, words))

    def conclude(self) -> Contents:
        if not self._requests and not self.faults.named:
            self.faults.add(LineFault(None, FaultCode.EMPTY, "the file holds no requests"))
        self.faults.raise_any()
        assert self._first is not None
        model = next(iter(self._models)) if len(self._models) == 1 else None
        return Contents(endpoint=self._first.endpoint, requests=self._requests, model=model)

    def _check_id(self, custom_id: str | None, number: int) -> None:
        if custom_id is None:
            return
        first = self._lines_by_id.setdefault(custom_id, number)
        if first != number:
            words = f"{custom_id[:100]!r} is that of line {first} too"
            self.faults.add(LineFault(number, FaultCode.DUPLICATE_ID, words, "custom_id"))

    def _check_url(self, request: RequestLine, number: int) -> None:
        if self._first is None:
            self._first, self._first_number = request, number
        elif request.endpoint is not self._first.endpoint:
            words = (
                f"{request.endpoint.value} is not that of line {self._first_number}, as all must be"
            )
            self.faults.add(LineFault(number, FaultCode.URL_MISMATCH, words, "url"))

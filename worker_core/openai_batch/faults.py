"""What can be wrong with an input file, in OpenAI's form."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from worker_core.errors import WorkerCoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker_core.engine import JSON

__all__ = ["BadInputFile", "FaultCode", "FaultList", "LineFault"]

_NAMED = 100


class FaultCode(enum.Enum):
    """The kind of a fault: OpenAI's word where it has one."""

    CHANGED = "file_changed"
    DUPLICATE_ID = "duplicate_custom_id"
    EMPTY = "empty_file"
    INVALID_JSON = "invalid_json_line"
    INVALID_METHOD = "invalid_method"
    INVALID_REQUEST = "invalid_request"
    INVALID_URL = "invalid_url"
    MISSING = "missing_required_parameter"
    TOO_LARGE = "file_too_large"
    TOO_MANY_INPUTS = "too_many_inputs"
    TOO_MANY_REQUESTS = "too_many_tasks"
    URL_MISMATCH = "url_mismatch"


@attrs.frozen
class LineFault:
    """One thing that is wrong with a file."""

    line: int | None
    """Counted from 1; `None` for the whole file."""
    code: FaultCode
    message: str
    param: str | None = None
    """The path of the member at fault: `body.messages[0].role`."""

    def __str__(self) -> str:
        words = f"{self.param}: {self.message}" if self.param else self.message
        return words if self.line is None else f"line {self.line}: {words}"

    def data(self) -> JSON:
        """Return it as an entry of a batch object's `errors`."""
        return {
            "code": self.code.value,
            "line": self.line,
            "message": self.message,
            "param": self.param,
        }


@attrs.define
class FaultList:
    """Faults as they are found: the first are kept, the rest is counted."""

    named: list[LineFault] = attrs.field(factory=list)
    unnamed: int = 0

    def add(self, fault: LineFault) -> None:
        """Take one more."""
        if len(self.named) < _NAMED:
            self.named.append(fault)
        else:
            self.unnamed += 1

    def raise_any(self) -> None:
        """Raise `BadInputFile` if there are any."""
        if self.named:
            raise BadInputFile(self.named, unnamed=self.unnamed)


class BadInputFile(WorkerCoreError):
    """A file that cannot be submitted: `faults` are the first of them, `unnamed` counts the others."""

    def __init__(self, faults: Sequence[LineFault], *, unnamed: int = 0) -> None:
        self.faults = tuple(faults)
        self.unnamed = unnamed
        super().__init__("\n".join(self.lines()))

    def lines(self) -> Iterator[str]:
        """Yield what to tell people, a line for each fault."""
        yield from map(str, self.faults)
        if self.unnamed:
            yield f"and {self.unnamed} more"

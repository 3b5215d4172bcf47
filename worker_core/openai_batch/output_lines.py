"""Lines of the output and the error file: what became of each request, in OpenAI's form."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from worker_core.client import BatchStatus, ItemStatus
from worker_core.openai_batch.answers import response_body
from worker_core.strict_json import dumps

if TYPE_CHECKING:
    from worker_core.client import ItemError, ItemResult
    from worker_core.engine import JSON

__all__ = ["LineWriter", "OutputLine", "Target"]


class Target(enum.Enum):
    """The file that a line belongs into."""

    OUTPUT = "output"
    ERRORS = "errors"


@attrs.frozen
class OutputLine:
    """One line, its end included."""

    target: Target
    text: bytes


@attrs.frozen
class _Refusal:
    """A failure as the HTTP response that it would have been."""

    status: int
    type: str
    code: str | None = None
    """OpenAI's word for it, where that differs from ours."""


_INVALID = _Refusal(400, "invalid_request_error")
_INTERNAL = _Refusal(500, "server_error")
_REFUSALS = {
    "invalid_request": _INVALID,
    "bad_input": _INVALID,
    "unsupported": _INVALID,
    "model_missing": _Refusal(404, "invalid_request_error", "model_not_found"),
    "unauthorized": _Refusal(401, "authentication_error"),
    "unreachable": _Refusal(502, "server_error"),
    "busy": _Refusal(503, "server_error"),
    "circuit_open": _Refusal(503, "server_error"),
    "timeout": _Refusal(504, "server_error"),
    "deadline": _Refusal(504, "server_error"),
    "crashed": _INTERNAL,
    "incomplete": _INTERNAL,
    "out_of_memory": _INTERNAL,
    "error": _INTERNAL,
}


@attrs.frozen(kw_only=True)
class LineWriter:
    """Writes the lines of one batch."""

    batch_id: str
    status: BatchStatus | None
    """How it stands; `None` where its job is there no more."""
    reason: str | None
    """Why it failed."""
    created: int
    """Seconds since the epoch, for answers that do not say when they were made."""

    def line(self, item: ItemResult) -> OutputLine | None:
        """Return the line of an item; `None` for one that may still run."""
        match item.status:
            case ItemStatus.COMPLETED:
                assert item.result is not None
                item_id = self._item_id(item)
                body = response_body(item.type, item.result, item_id=item_id, created=self.created)
                return self._line(Target.OUTPUT, item, response=(200, body))
            case ItemStatus.FAILED:
                assert item.error is not None
                return self._line(Target.ERRORS, item, response=_refusal(item.error))
            case ItemStatus.NOT_RUN:
                error = self._not_run()
                return None if error is None else self._line(Target.ERRORS, item, error=error)

    def _line(
        self,
        target: Target,
        item: ItemResult,
        *,
        response: tuple[int, JSON] | None = None,
        error: JSON = None,
    ) -> OutputLine:
        line_id = f"batch_req_{self._item_id(item)}"
        answered: JSON = None
        if response is not None:
            status, body = response
            answered = {"status_code": status, "request_id": line_id, "body": body}
        whole = {"id": line_id, "custom_id": item.custom_id, "response": answered, "error": error}
        return OutputLine(target, dumps(whole) + b"\n")

    def _item_id(self, item: ItemResult) -> str:
        return f"{self.batch_id.removeprefix('batch_')}_{item.index}"

    def _not_run(self) -> JSON:
        match self.status:
            case (
                BatchStatus.VALIDATING
                | BatchStatus.IN_PROGRESS
                | BatchStatus.FINALIZING
                | BatchStatus.CANCELLING
            ):
                return None
            case BatchStatus.EXPIRED:
                return _error("batch_expired", "the completion window ended before this was run")
            case BatchStatus.CANCELLED:
                return _error("batch_cancelled", "the batch was cancelled before this was run")
            case BatchStatus.FAILED | BatchStatus.COMPLETED | None:
                why = f": {self.reason}" if self.reason else ""
                return _error("batch_failed", f"the batch ended before this was run{why}")


def _error(code: str, message: str) -> JSON:
    return {"code": code, "message": message}


def _refusal(error: ItemError) -> tuple[int, JSON]:
    refusal = _REFUSALS.get(error.failure, _INTERNAL)
    body: JSON = {
        "error": {
            "message": error.message,
            "type": refusal.type,
            "param": None,
            "code": refusal.code or error.failure,
        }
    }
    return refusal.status, body

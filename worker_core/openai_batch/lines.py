"""One line of an input file: a request in OpenAI's form, as an item of a batch."""

from __future__ import annotations

from typing import Any

import attrs

from worker_core.batches import BatchItem
from worker_core.engine import JSON
from worker_core.errors import Fault, InvalidRequest
from worker_core.openai_batch.chat_request import chat_data
from worker_core.openai_batch.embeddings_request import embeddings_data
from worker_core.openai_batch.endpoint import Endpoint
from worker_core.openai_batch.faults import FaultCode, LineFault
from worker_core.request_fields import not_empty
from worker_core.strict_json import key_path, loads
from worker_core.structure import InvalidData, structure

__all__ = ["BadLine", "RequestLine", "read_line"]

_SHOWN_CHARS = 100


class BadLine(Exception):
    """A line that is no request; `faults` is not empty, `custom_id` set where it has one."""

    def __init__(self, faults: list[LineFault], custom_id: str | None = None) -> None:
        self.faults = faults
        self.custom_id = custom_id
        super().__init__("; ".join(map(str, faults)))


@attrs.frozen
class RequestLine:
    """A request, read from its line."""

    endpoint: Endpoint
    item: BatchItem

    @property
    def model(self) -> str:
        """The model that it asks."""
        assert isinstance(self.item.body, dict)
        return str(self.item.body["model"])

    @property
    def inputs(self) -> int:
        """How many texts it wants embedded."""
        texts = self.item.body.get("input") if isinstance(self.item.body, dict) else None
        return len(texts) if isinstance(texts, list) else int(isinstance(texts, str))


def _post(_: object, field: attrs.Attribute[Any], value: str) -> None:
    if value != "POST":
        raise ValueError(f"'{field.name}' must be \"POST\", not {_shown(value)}")


def _known(_: object, field: attrs.Attribute[Any], value: str) -> None:
    known = [endpoint.value for endpoint in Endpoint]
    if value not in known:
        raise ValueError(f"'{field.name}' must be {' or '.join(known)}, not {_shown(value)}")


def _object(_: object, field: attrs.Attribute[Any], value: JSON) -> None:
    if not isinstance(value, dict):
        words = f"'{field.name}' must be an object"
        raise ValueError(words)  # noqa: TRY004  # what a validator raises is a fault either way


@attrs.frozen(kw_only=True)
class _Line:
    custom_id: str = attrs.field(validator=not_empty)
    method: str = attrs.field(validator=_post)
    url: str = attrs.field(validator=_known)
    body: JSON = attrs.field(validator=_object)


def read_line(text: bytes, number: int) -> RequestLine:
    """Read a line; raises `BadLine` with all that is wrong with it."""
    try:
        raw = loads(text)
    except InvalidRequest as error:
        # It is one line, and which one is told before.
        words = "; ".join(map(str, error.faults)).replace("line 1 column", "column")
        raise BadLine([LineFault(number, FaultCode.INVALID_JSON, words)]) from None
    if not isinstance(raw, dict):
        raise BadLine([LineFault(number, FaultCode.INVALID_JSON, "must be a JSON object")])
    faults: list[LineFault] = []
    try:
        line = structure(raw, _Line)
    except InvalidData as error:
        faults += [_fault(fault, number) for fault in error.faults]
    endpoint = _endpoint(raw.get("url"))
    body = raw.get("body")
    data: JSON = None
    if endpoint is not None and isinstance(body, dict):
        try:
            data = _translate(endpoint, body)
        except InvalidRequest as error:
            faults += [_fault(fault, number, "body") for fault in error.faults]
    if faults:
        custom_id = raw.get("custom_id")
        raise BadLine(faults, custom_id if isinstance(custom_id, str) and custom_id else None)
    assert endpoint is not None
    return RequestLine(endpoint, BatchItem(line.custom_id, endpoint.job_type, data))


def _endpoint(url: JSON) -> Endpoint | None:
    return next((endpoint for endpoint in Endpoint if endpoint.value == url), None)


def _translate(endpoint: Endpoint, body: JSON) -> dict[str, JSON]:
    match endpoint:
        case Endpoint.CHAT:
            return chat_data(body)
        case Endpoint.EMBEDDINGS:
            return embeddings_data(body)


def _fault(fault: Fault, number: int, above: str = "") -> LineFault:
    path = key_path(above, fault.path) if fault.path else above
    return LineFault(number, _code(path, fault.message), fault.message, path or None)


def _code(path: str, message: str) -> FaultCode:
    if message == "missing":
        return FaultCode.MISSING
    match path:
        case "method":
            return FaultCode.INVALID_METHOD
        case "url":
            return FaultCode.INVALID_URL
        case _:
            return FaultCode.INVALID_REQUEST


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_CHARS])

"""`/_fake/`: the fake engine scripted and read over HTTP, so that processes can share one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs

import cattrs
import orjson
from cattrs.preconf.orjson import make_converter

from worker_core.testing.fake_engine.behaviour import Behaviour
from worker_core.testing.fake_engine.demands import Refusal
from worker_core.testing.fake_engine.script import ScriptedFault

if TYPE_CHECKING:
    from worker_core.testing.fake_engine.log import RequestLog
    from worker_core.testing.fake_engine.script import Script
    from worker_core.testing.fake_engine.wire import Request

__all__ = ["PREFIX", "Controlled", "control"]

PREFIX = "/_fake/"

_converter = make_converter(forbid_extra_keys=True)


class Controlled(Protocol):
    """What the control calls reach: the engine's public face."""

    behaviour: Behaviour
    faults: Script

    @property
    def log(self) -> RequestLog:
        """What it saw."""
        ...

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models in memory."""
        ...

    @property
    def loading(self) -> str | None:
        """The model that loads now."""
        ...

    def reset(self) -> None:
        """Begin anew."""
        ...


def control(engine: Controlled, request: Request) -> object:
    """Do what a `/_fake/` request asks for and return its answer; raises `Refusal`."""
    call = request.method, request.path.removeprefix(PREFIX)
    answer: object = {}
    match call:
        case "GET", "log":
            answer = _log(engine.log, request.query)
        case "GET", "state":
            answer = _state(engine)
        case "GET", "script":
            answer = {"faults": _converter.unstructure(engine.faults.pending)}
        case "POST", "script":
            engine.faults.add(*_faults(request.body))
        case "DELETE", "script":
            engine.faults.clear()
        case "GET", "behaviour":
            answer = _converter.unstructure(engine.behaviour)
        case "POST", "behaviour":
            engine.behaviour = _changed(engine.behaviour, request.body)
            answer = _converter.unstructure(engine.behaviour)
        case "POST", "reset":
            engine.reset()
        case _:
            raise Refusal(404, f"no control call {request.method} {request.path}")
    return answer


def _log(log: RequestLog, query: str) -> dict[str, object]:
    since = int(parse_qs(query).get("since", ["0"])[0])
    requests = [entry for entry in log.requests if entry.id > since]
    return {"counts": _counts(log), "requests": _converter.unstructure(requests)}


def _counts(log: RequestLog) -> dict[str, int]:
    return {
        "total": log.total,
        "in_flight": log.in_flight,
        "peak_in_flight": log.peak_in_flight,
        "loads": log.loads,
        "loads_aborted": log.loads_aborted,
        "reloads": log.reloads,
        "unloads": log.unloads,
    }


def _state(engine: Controlled) -> dict[str, object]:
    return {
        "counts": _counts(engine.log),
        "loaded": engine.loaded,
        "loading": engine.loading,
        "faults": len(engine.faults.pending),
    }


def _faults(body: bytes) -> list[ScriptedFault]:
    value = _parsed(body)
    try:
        return _converter.structure(
            value if isinstance(value, list) else [value], list[ScriptedFault]
        )
    except (cattrs.BaseValidationError, ValueError) as error:
        raise Refusal(400, _told(error)) from error


def _changed(behaviour: Behaviour, body: bytes) -> Behaviour:
    value = _parsed(body)
    if not isinstance(value, dict):
        raise Refusal(400, "expected an object of behaviour fields")
    try:
        whole = {**_converter.unstructure(behaviour), **value}
        return _converter.structure(whole, Behaviour)
    except (cattrs.BaseValidationError, ValueError) as error:
        raise Refusal(400, _told(error)) from error


def _parsed(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"not JSON: {error}") from error


def _told(error: Exception) -> str:
    if isinstance(error, cattrs.BaseValidationError):
        return "; ".join(cattrs.transform_error(error))
    return str(error)

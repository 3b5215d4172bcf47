"""A stored job: what stands in its hash, read so that nothing in it can throw.

Whatever a producer, another program or a bit flip left there, a claimed job must end somewhere:
what cannot be read is kept in `faults`, and the job is failed with them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs

from worker_core.errors import Fault, InvalidRequest
from worker_core.strict_json import loads
from worker_core.structure import InvalidData, structure

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Backoff", "JobOptions", "KeepJobs", "StoredJob", "read_job"]

_LUA_EXACT = 2**53 - 1
"""The largest whole number that Lua and JavaScript keep exactly."""
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


@attrs.frozen
class Backoff:
    """How long to wait between attempts: `delay` in ms, `jitter` a share of it."""

    type: str
    delay: float = 0
    jitter: float = 0


@attrs.frozen
class KeepJobs:
    """How many finished jobs to keep, for how many seconds; -1 keeps all."""

    count: int | None = None
    age: int | None = None
    limit: int | None = None

    def packable(self) -> dict[str, int]:
        """Return the form that `moveToFinished` takes: what is not set is absent there."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)


@attrs.frozen(kw_only=True)
class JobOptions:
    """The options that concern a worker, under BullMQ's names in snake case."""

    attempts: int = 0
    backoff: Backoff | None = None
    lifo: bool = False
    remove_on_complete: KeepJobs | None = None
    remove_on_fail: KeepJobs | None = None
    keep_logs: int | None = None
    stack_trace_limit: int | None = None
    fail_parent: bool = False
    continue_parent: bool = False
    ignore_dependency: bool = False
    remove_dependency: bool = False


@attrs.frozen(kw_only=True)
class StoredJob:
    """A job as its hash holds it. Numbers named `..._ms` are milliseconds since the epoch."""

    id: str
    name: str = ""
    data: bytes = b"null"
    options: JobOptions = JobOptions()
    timestamp_ms: int = 0
    processed_on_ms: int = 0
    priority: int = 0
    attempts_made: int = 0
    attempts_started: int = 0
    stacktrace: tuple[str, ...] = ()
    deferred_failure: str | None = None
    faults: tuple[Fault, ...] = ()
    """What could not be read; such a job is failed, never run."""


def read_job(job_id: str, pairs: Sequence[bytes]) -> StoredJob:
    """Read a job from `HGETALL`'s flat reply; never raises for what stands in it."""
    fields = dict(zip(pairs[::2], pairs[1::2], strict=False))
    faults: list[Fault] = []

    def number(name: bytes) -> int:
        raw = fields.get(name)
        if raw is None:
            return 0
        try:
            return _whole_number(raw)
        except ValueError:
            faults.append(Fault(name.decode(), "expected a whole number in the job's hash"))
            return 0

    options = _read_options(fields.get(b"opts"), faults)
    deferred = fields.get(b"defa")
    return StoredJob(
        id=job_id,
        name=fields.get(b"name", b"").decode("utf-8", "replace"),
        data=fields.get(b"data", b"null"),
        options=options,
        timestamp_ms=number(b"timestamp"),
        processed_on_ms=number(b"processedOn"),
        priority=number(b"priority"),
        attempts_made=number(b"atm") if b"atm" in fields else number(b"attemptsMade"),
        attempts_started=number(b"ats"),
        stacktrace=_read_stacktrace(fields.get(b"stacktrace")),
        deferred_failure=None if deferred is None else deferred.decode("utf-8", "replace"),
        faults=tuple(faults),
    )


def _whole_number(raw: bytes) -> int:
    # Lua may have written it as a float: 1e3, 12.0.
    try:
        number = int(raw)
    except ValueError:
        value = float(raw)
        if not math.isfinite(value):
            raise ValueError("not finite") from None
        number = int(value)
    # More could be neither packed again nor counted with.
    if not _INT64_MIN <= number <= _INT64_MAX:
        raise ValueError("beyond 64 bits")
    return number


def _read_stacktrace(raw: bytes | None) -> tuple[str, ...]:
    """Read earlier traces; what is not a list of texts is nothing to fail a job for."""
    if not raw:
        return ()
    try:
        traces = loads(raw)
    except InvalidRequest:
        return ()
    return tuple(t for t in traces if isinstance(t, str)) if isinstance(traces, list) else ()


def _read_options(raw: bytes | None, faults: list[Fault]) -> JobOptions:
    if not raw:
        return JobOptions()
    try:
        found = loads(raw)
        if not isinstance(found, dict):
            raise InvalidData([Fault("", "expected an object")])
        return structure(_in_our_names(found), JobOptions)
    except (InvalidRequest, InvalidData) as error:
        faults.extend(
            Fault(f"opts.{fault.path}" if fault.path else "opts", fault.message)
            for fault in error.faults
        )
        return JobOptions()


_OPTION_NAMES = {
    "attempts": "attempts",
    "lifo": "lifo",
    "keepLogs": "keep_logs",
    "stackTraceLimit": "stack_trace_limit",
    "fpof": "fail_parent",
    "cpof": "continue_parent",
    "idof": "ignore_dependency",
    "rdof": "remove_dependency",
}


def _in_our_names(found: dict[str, Any]) -> dict[str, object]:
    named: dict[str, object] = {
        ours: found[theirs]
        for theirs, ours in _OPTION_NAMES.items()
        if found.get(theirs) is not None
    }
    for name in ("attempts", "keep_logs", "stack_trace_limit"):
        value = named.get(name)
        if isinstance(value, float) and value.is_integer():
            named[name] = _exact(value)
    backoff = found.get("backoff")
    if isinstance(backoff, int | float) and not isinstance(backoff, bool):
        named["backoff"] = Backoff("fixed", backoff) if backoff else None
    elif backoff is not None:
        named["backoff"] = backoff
    for theirs, ours in (
        ("removeOnComplete", "remove_on_complete"),
        ("removeOnFail", "remove_on_fail"),
    ):
        if theirs in found:
            named[ours] = _keep_jobs(found[theirs])
    return named


def _keep_jobs(option: object) -> object:
    """Read `removeOn...`: true removes at once, false keeps all, a number or object says how many."""
    match option:
        case None:
            return None
        case bool():
            return KeepJobs(count=0 if option else -1)
        case int() | float():
            return KeepJobs(count=_exact(option))
        case dict():
            return {
                name: _exact(value) if isinstance(value, int | float) else value
                for name, value in option.items()
                if value is not None
            }
        case _:
            return option


def _exact(number: float) -> int:
    # 1e15 arrives as a float and must stay "keep very many": no overflow, no float in msgpack.
    return int(max(-1, min(number, _LUA_EXACT)))

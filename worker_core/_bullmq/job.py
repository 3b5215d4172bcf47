"""A stored job: what stands in its hash, read so that nothing in it can throw.

Whatever a producer, another program or a bit flip left there, a claimed job must end somewhere:
what cannot be read is kept in `faults`, and the job is failed with them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import attrs

from worker_core.errors import Fault, InvalidRequest
from worker_core.strict_json import loads
from worker_core.structure import InvalidData, structure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "HISTORY_FIELD",
    "PUT_OFF_FIELD",
    "Backoff",
    "JobOptions",
    "KeepJobs",
    "StoredJob",
    "read_job",
]

HISTORY_FIELD = "wc:history"
"""A field of ours in a job's hash. BullMQ passes over fields that it does not know."""
_HISTORY = HISTORY_FIELD.encode()
PUT_OFF_FIELD = "wc:put-off"
"""Another: the attempts made, a colon, and since when this attempt is put off, in milliseconds."""
_PUT_OFF = PUT_OFF_FIELD.encode()
_PUT_OFF_VALUE = re.compile(rb"(\d{1,9}):(\d{1,15})")

_LUA_EXACT = 2**53 - 1
"""The largest whole number that Lua and JavaScript keep exactly."""
_COUNTER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_ZERO = ord("0")
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


@attrs.frozen(kw_only=True, cache_hash=True)
class JobOptions:
    """The options that concern a worker, under BullMQ's names in snake case."""

    attempts: int = 0
    # No part of what makes options equal: it differs from job to job, and nothing that is packed
    # once for many jobs depends on it.
    delay: float = attrs.field(default=0, eq=False)
    """Milliseconds that the producer asked for."""
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
    history: bytes = b""
    """Its failed attempts, as `HISTORY_FIELD` keeps them; nobody here reads them."""
    put_off_since_ms: int | None = None
    """When this attempt was put off for the first time, where that is bounded."""
    deferred_failure: str | None = None
    scheduler_id: str | None = None
    """The job scheduler that it is from, and that stands still until its next job is made."""
    raw_options: bytes = b""
    """The options as they stand in the hash: a scheduler's next job is given all of them."""
    faults: tuple[Fault, ...] = ()
    """What could not be read; such a job is failed, never run."""
    repairs: Mapping[str, str] = attrs.field(factory=dict)
    """Fields over which BullMQ's scripts would stumble half way, so that the job would be in no
    list at all, with what must stand there before it is settled; an empty text: nothing."""


def read_job(job_id: str, pairs: Sequence[bytes]) -> StoredJob:
    """Read a job from `HGETALL`'s flat reply; never raises for what stands in it."""
    names_and_values = iter(pairs)
    fields = dict(zip(names_and_values, names_and_values, strict=False))
    raw_options = fields.get(b"opts", b"")
    options, faults = _read_options(raw_options)
    numbers = _Numbers(fields, list(faults))
    if b"parent" in fields or b"parentKey" in fields:
        _check_parent(fields, numbers.faults, numbers.repairs)
    deferred = fields.get(b"defa")
    scheduler = fields.get(b"rjk")
    attempts_made = (
        numbers.read(b"atm", _counter, repair="0")
        if b"atm" in fields
        else numbers.read(b"attemptsMade", _whole_number)
    )
    put_off = fields.get(_PUT_OFF)
    return StoredJob(
        id=job_id,
        name=fields.get(b"name", b"").decode("utf-8", "replace"),
        data=fields.get(b"data", b"null"),
        options=options,
        timestamp_ms=numbers.read(b"timestamp", _whole_number),
        processed_on_ms=numbers.read(b"processedOn", _whole_number),
        priority=numbers.read(b"priority", _whole_number, repair="0"),
        attempts_made=attempts_made,
        attempts_started=numbers.read(b"ats", _counter, repair="1"),
        stacktrace=_read_stacktrace(fields.get(b"stacktrace")),
        history=fields.get(_HISTORY, b""),
        put_off_since_ms=None if put_off is None else _read_put_off(put_off, attempts_made),
        deferred_failure=None if deferred is None else deferred.decode("utf-8", "replace"),
        scheduler_id=None if scheduler is None else scheduler.decode("utf-8", "replace"),
        raw_options=raw_options,
        faults=tuple(numbers.faults),
        repairs=numbers.repairs,
    )


class _Numbers:
    """Reads the numbers of a hash; what is none is a fault, and a repair where scripts count it."""

    __slots__ = ("_fields", "faults", "repairs")

    def __init__(self, fields: Mapping[bytes, bytes], faults: list[Fault]) -> None:
        self._fields = fields
        self.faults = faults
        self.repairs: dict[str, str] = {}

    def read(self, field: bytes, read: Callable[[bytes], int], *, repair: str | None = None) -> int:
        raw = self._fields.get(field)
        if raw is None:
            return 0
        # How almost every number stands there; each way of reading takes it as it is.
        if raw.isdigit() and len(raw) < 16 and (raw[0] != _ZERO or len(raw) == 1):
            return int(raw)
        try:
            return read(raw)
        except ValueError:
            name = field.decode()
            self.faults.append(Fault(name, "expected a whole number in the job's hash"))
            if repair is not None:
                self.repairs[name] = repair
            return 0


def _whole_number(raw: bytes) -> int:
    # Lua may have written it as a float: 1e3, 12.0.
    value = int(raw) if _COUNTER.fullmatch(raw) else float(raw)
    if not -_LUA_EXACT <= value <= _LUA_EXACT:
        raise ValueError("not finite, or not exact")
    return int(value)


def _counter(raw: bytes) -> int:
    """Read what HINCRBY counts up, exactly as strictly as HINCRBY does."""
    if not _COUNTER.fullmatch(raw):
        raise ValueError("HINCRBY would not take it")
    return _whole_number(raw)


def _check_parent(
    fields: Mapping[bytes, bytes], faults: list[Fault], repairs: dict[str, str]
) -> None:
    """The scripts decode these after the job has left the active ones."""
    raw = fields.get(b"parent")
    if raw is not None:
        try:
            parent = loads(raw)
        except InvalidRequest:
            parent = None
        match parent:
            case {"id": str(), "queueKey": str()}:
                pass
            case _:
                faults.append(Fault("parent", "expected an object with id and queueKey"))
                repairs["parent"] = ""
    key = fields.get(b"parentKey")
    if key and b":" not in key:
        faults.append(Fault("parentKey", "expected the key of a job"))
        repairs["parentKey"] = ""


def _read_put_off(raw: bytes, attempts_made: int) -> int | None:
    """Read since when this attempt is put off; what an earlier one left says nothing of it."""
    found = _PUT_OFF_VALUE.fullmatch(raw)
    if found is None or int(found[1]) != attempts_made:
        return None
    return int(found[2])


def _read_stacktrace(raw: bytes | None) -> tuple[str, ...]:
    """Read earlier traces; what is not a list of texts is nothing to fail a job for."""
    if not raw:
        return ()
    try:
        traces = loads(raw)
    except InvalidRequest:
        return ()
    return tuple(t for t in traces if isinstance(t, str)) if isinstance(traces, list) else ()


# A producer's jobs mostly have the same options, and reading them is a tenth of a quick job's cost.
@lru_cache(maxsize=256)
def _read_options(raw: bytes) -> tuple[JobOptions, tuple[Fault, ...]]:
    if not raw:
        return JobOptions(), ()
    try:
        found = loads(raw)
        if not isinstance(found, dict):
            raise InvalidData([Fault("", "expected an object")])
        return structure(_in_our_names(found), JobOptions), ()
    except (InvalidRequest, InvalidData) as error:
        return JobOptions(), tuple(
            Fault(".".join(filter(None, ("opts", _in_their_names(fault.path)))), fault.message)
            for fault in error.faults
        )


def _in_their_names(path: str) -> str:
    """Name an option as the producer did: `remove_on_fail.count` is his `removeOnFail.count`."""
    first, point, rest = path.partition(".")
    return f"{_THEIR_NAMES.get(first, first)}{point}{rest}"


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
_KEEP_NAMES = {"removeOnComplete": "remove_on_complete", "removeOnFail": "remove_on_fail"}
_THEIR_NAMES = {ours: theirs for theirs, ours in (_OPTION_NAMES | _KEEP_NAMES).items()}


def _in_our_names(found: dict[str, Any]) -> dict[str, object]:
    named: dict[str, object] = {
        ours: found[theirs]
        for theirs, ours in _OPTION_NAMES.items()
        if found.get(theirs) is not None
    }
    if found.get("kl") is not None:
        named["keep_logs"] = found["kl"]  # as Node writes it down
    for name in ("attempts", "keep_logs", "stack_trace_limit"):
        value = named.get(name)
        if isinstance(value, float) and value.is_integer():
            named[name] = _exact(value)
    delay = found.get("delay")
    if isinstance(delay, int | float) and not isinstance(delay, bool):
        named["delay"] = max(0, delay)  # for measuring only: what it is not, is no fault
    backoff = found.get("backoff")
    if isinstance(backoff, int | float) and not isinstance(backoff, bool):
        named["backoff"] = Backoff("fixed", backoff) if backoff else None
    elif backoff is not None:
        named["backoff"] = backoff
    for theirs, ours in _KEEP_NAMES.items():
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

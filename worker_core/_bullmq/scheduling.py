"""Job schedulers: the job that follows the one that was just claimed. Pure.

BullMQ's schedulers have no clock of their own: each job of theirs, when it is claimed, makes the
next one. A worker that did not would let them stand still.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import msgpack

from worker_core._bullmq.calls import ScriptCall
from worker_core._bullmq.cron import BadSchedule, next_time_ms
from worker_core._bullmq.scripts import load_script
from worker_core.errors import InvalidRequest
from worker_core.strict_json import loads

if TYPE_CHECKING:
    from worker_core._bullmq.job import StoredJob
    from worker_core._bullmq.keys import QueueKeys

__all__ = ["BadSchedule", "make_next"]


@attrs.frozen(kw_only=True)
class _Repeat:
    """What a job says of its scheduler. Times are ms since the epoch."""

    pattern: str | None
    every_ms: int | None
    limit: int | None
    count: int
    """The number of this job, from 1; 0 where nobody counted."""
    start_ms: int | None
    end_ms: int | None
    offset_ms: int | None
    tz: str | None


def make_next(keys: QueueKeys, job: StoredJob, *, now_ms: int) -> ScriptCall | None:
    """Return the call that makes the next job of the scheduler that `job` is from.

    `None`: the scheduler has come to its end. Raises `BadSchedule`. Making the call twice is making
    it once: the script looks whether the scheduler still stands at this very job.
    """
    scheduler = job.scheduler_id
    assert scheduler is not None
    options = _read_options(job)
    repeat = _read_repeat(options.get("repeat"))
    if repeat.limit is not None and repeat.count + 1 > repeat.limit:
        return None
    if repeat.end_ms is not None and now_ms > repeat.end_ms:
        return None
    next_ms = _next_ms(repeat, _whole(options.get("prevMillis")), now_ms)
    if next_ms is None:
        return None
    following = _following(options, repeat, scheduler, next_ms, now_ms)
    try:
        packed = msgpack.packb(following)
    except (ValueError, OverflowError) as error:
        raise BadSchedule(f"its options cannot be passed on: {error}") from None
    return ScriptCall(
        load_script("updateJobScheduler"),
        (
            *(keys.repeat, keys.delayed, keys.wait, keys.paused, keys.meta, keys.prioritized),
            *(keys.marker, keys.id, keys.events, keys.pc, keys.job(job.id), keys.active),
        ),
        (next_ms, scheduler, job.data, packed, now_ms, keys.base, job.id),
    )


def _read_options(job: StoredJob) -> dict[str, Any]:
    try:
        options = loads(job.raw_options)
    except InvalidRequest as error:
        raise BadSchedule(f"opts: {error}") from None
    if not isinstance(options, dict):
        raise BadSchedule("opts: expected an object")
    return options


def _read_repeat(found: object) -> _Repeat:
    if not isinstance(found, dict):
        raise BadSchedule("opts.repeat: expected an object")
    pattern, every_ms = found.get("pattern"), _whole(found.get("every"))
    if bool(pattern) == bool(every_ms):
        raise BadSchedule("opts.repeat: expected either a pattern or a number as every")
    if pattern is not None and not isinstance(pattern, str):
        raise BadSchedule("opts.repeat.pattern: expected text")
    tz = found.get("tz")
    return _Repeat(
        pattern=pattern or None,
        every_ms=every_ms,
        limit=_whole(found.get("limit")),
        count=_whole(found.get("count")) or 0,
        start_ms=_time_ms(found.get("startDate"), "startDate"),
        end_ms=_time_ms(found.get("endDate"), "endDate"),
        offset_ms=_whole(found.get("offset")),
        tz=tz if isinstance(tz, str) else None,
    )


def _next_ms(repeat: _Repeat, previous_ms: int | None, now_ms: int) -> int | None:
    if repeat.pattern is None:
        # The script itself finds the next slot, from the one that the scheduler stands at.
        return now_ms
    # The job's own time too: it may have been taken early, by a worker whose clock is ahead.
    after_ms = max(now_ms, previous_ms or 0)
    found_ms = next_time_ms(repeat.pattern, max(after_ms, repeat.start_ms or 0), repeat.tz)
    if found_ms is None or (repeat.end_ms is not None and found_ms > repeat.end_ms):
        return None
    return found_ms


def _following(
    options: dict[str, Any], repeat: _Repeat, scheduler: str, next_ms: int, now_ms: int
) -> dict[str, Any]:
    """Return the next job's options: those of this one, and what says where the scheduler stands."""
    next_repeat: dict[str, Any] = {
        **options["repeat"],
        "count": repeat.count + 1,
        "offset": repeat.offset_ms if repeat.every_ms else None,
        "startDate": repeat.start_ms,
        "endDate": repeat.end_ms,
    }
    # It counts for a scheduler's first job alone.
    next_repeat.pop("immediately", None)
    following = {
        **options,
        "jobId": f"repeat:{scheduler}:{next_ms}",
        "delay": max(0, next_ms - now_ms),
        "timestamp": now_ms,
        "repeatJobKey": scheduler,
        "repeat": {name: value for name, value in next_repeat.items() if value is not None},
    }
    if repeat.pattern is not None:
        following["prevMillis"] = next_ms
    return following


def _whole(value: object) -> int | None:
    """Read a number that may have been through Lua, which writes large ones as floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(max(-(2**53), min(value, 2**53)))


def _time_ms(value: object, name: str) -> int | None:
    match value:
        case None | "":
            return None
        case str():
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise BadSchedule(f"opts.repeat.{name}: expected a time") from None
            return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
        case _:
            return _whole(value)

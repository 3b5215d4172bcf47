"""Building the calls of the protocol: which script, which keys, which arguments. Pure.

Each function's source is the head comment of the Lua script that it is named after.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import attrs
import msgpack

from worker_core._bullmq.job import HISTORY_FIELD, PUT_OFF_FIELD, JobOptions, KeepJobs, StoredJob
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.scripts import load_script
from worker_core.redis import Script

COUNTED_STATES = (
    *("wait", "active", "delayed", "prioritized", "completed", "failed", "paused"),
    "waiting-children",
)

__all__ = [
    "COUNTED_STATES",
    "Argument",
    "ClaimOptions",
    "RateLimit",
    "ScriptCall",
    "add_log",
    "claim",
    "count_jobs",
    "delay",
    "extend_locks",
    "find_owned",
    "finish",
    "give_back",
    "is_finished",
    "now_ms",
    "repair",
    "retry",
    "sweep_stalled",
    "update_progress",
]

Argument: TypeAlias = str | bytes | int | float


@attrs.frozen
class ScriptCall:
    """One call of one script, ready for any client."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Argument, ...]
    constant: int = 0
    """How many of the keys, from the first, are the same in each such call of a queue."""


@attrs.frozen(kw_only=True)
class RateLimit:
    """At most `max` jobs in `duration_ms`, counted over all workers of a queue."""

    # Both, always: with `max` alone the script fails after it has taken a job.
    max: int = attrs.field(validator=attrs.validators.ge(1))
    duration_ms: int = attrs.field(validator=attrs.validators.ge(1))


@attrs.frozen(kw_only=True, cache_hash=True)
class ClaimOptions:
    """What a worker says of itself in each claim."""

    worker: str
    """Becomes `processedBy`."""
    lock_ms: int
    keep_completed: KeepJobs = KeepJobs(count=-1)
    keep_failed: KeepJobs = KeepJobs(count=-1)
    chart_minutes: int = 0
    """How many minutes of finished jobs to count for charts; 0 counts none."""
    limit: RateLimit | None = None

    def packable(self, token: str) -> dict[str, object]:
        """Return what a script that takes a job is told; what is not set is absent there."""
        options: dict[str, object] = {
            "token": token,
            "name": self.worker,
            "lockDuration": self.lock_ms,
        }
        if self.limit is not None:
            options["limiter"] = {"max": self.limit.max, "duration": self.limit.duration_ms}
        return options


def now_ms() -> int:
    """Return the time as BullMQ keeps it: milliseconds since the epoch, by this machine's clock."""
    return int(time.time() * 1000)


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def claim(keys: QueueKeys, token: str, options: ClaimOptions) -> ScriptCall:
    """Move the next job to active, lock it and return it."""
    return ScriptCall(
        load_script("moveToActive"),
        (*keys.fetch, keys.marker),
        (keys.base, now_ms(), _claim_options(token, options)),
        constant=len(keys.fetch) + 1,
    )


# A slot says the same each time, and packing it costs as much as all the rest of a call.
@lru_cache(maxsize=4096)
def _claim_options(token: str, options: ClaimOptions) -> bytes:
    return _pack(options.packable(token))


def find_owned(keys: QueueKeys, token: str) -> ScriptCall:
    """Return the active job whose lock is the token's, if there is one."""
    return ScriptCall(load_script("findOwnedJob"), (keys.active,), (keys.base, token))


@attrs.define
class Finish:
    """How a job ends: `completed` with JSON, or failed with a reason and the traces so far."""

    # Not frozen: one is made for each job, and lives for a moment.

    completed: bool
    value: bytes
    """The return value as JSON, or the failure's reason as text; never empty."""
    stacktrace: bytes | None = None
    history: bytes | None = None
    """The failed attempts with this one, as JSON; `None` leaves them as they are."""
    at_ms: int = attrs.field(factory=now_ms)


def finish(
    keys: QueueKeys,
    job: StoredJob,
    token: str,
    ending: Finish,
    options: ClaimOptions,
    *,
    fetch_next: bool,
) -> ScriptCall:
    """Move an active job to completed or failed, let its lock go, and bring the next one along."""
    target = "completed" if ending.completed else "failed"
    return ScriptCall(
        load_script("moveToFinished"),
        (
            *keys.fetch,
            keys.completed if ending.completed else keys.failed,
            keys.job(job.id),
            keys.metrics(target),
            keys.marker,
        ),
        (
            job.id,
            ending.at_ms,
            "returnvalue" if ending.completed else "failedReason",
            ending.value,
            target,
            int(fetch_next),
            keys.base,
            _finish_options(token, job.options, options, completed=ending.completed),
            b""
            if ending.stacktrace is None
            else _failure_fields(ending.value, ending.stacktrace, ending.history),
        ),
        constant=len(keys.fetch),
    )


# The jobs of a producer mostly have the same options.
@lru_cache(maxsize=4096)
def _finish_options(
    token: str, job: JobOptions, options: ClaimOptions, *, completed: bool
) -> bytes:
    asked = job.remove_on_complete if completed else job.remove_on_fail
    default = options.keep_completed if completed else options.keep_failed
    return _pack(
        {
            **options.packable(token),
            "keepJobs": (asked or default).packable(),
            "attempts": job.attempts,
            "maxMetricsSize": options.chart_minutes or "",
            "fpof": job.fail_parent,
            "cpof": job.continue_parent,
            "idof": job.ignore_dependency,
            "rdof": job.remove_dependency,
        }
    )


def _failure_fields(reason: bytes, stacktrace: bytes, history: bytes | None) -> bytes:
    """Pack the fields that a failure writes beside its move, as the flat list HMSET takes."""
    # Old-spec strings: Lua's unpacker gives the same bytes for both, and text stays text.
    fields: list[str | bytes] = ["failedReason", reason, "stacktrace", stacktrace]
    if history is not None:
        fields += [HISTORY_FIELD, history]
    packed: bytes = msgpack.packb(fields, use_bin_type=False)
    return packed


@attrs.frozen(kw_only=True)
class Failure:
    """A failed attempt that is not the last: raw reason; traces and attempts as JSON lists."""

    reason: bytes
    stacktrace: bytes
    history: bytes | None = None
    """`None` leaves the attempts that the job keeps as they are."""

    def fields(self) -> bytes:
        """Return the fields to write beside the move."""
        return _failure_fields(self.reason, self.stacktrace, self.history)


def retry(keys: QueueKeys, job: StoredJob, token: str, failure: Failure) -> ScriptCall:
    """Put a failed job back into its queue at once, one attempt spent."""
    return ScriptCall(
        load_script("retryJob"),
        (
            *(keys.active, keys.wait, keys.paused, keys.job(job.id), keys.meta, keys.events),
            *(keys.delayed, keys.prioritized, keys.pc, keys.marker, keys.stalled),
        ),
        (
            keys.base,
            now_ms(),
            "RPUSH" if job.options.lifo else "LPUSH",
            job.id,
            token,
            failure.fields(),
        ),
    )


def delay(
    keys: QueueKeys,
    job: StoredJob,
    token: str,
    delay_ms: int,
    *,
    failure: Failure | None,
    skip_attempt: bool = False,
    put_off_since_ms: int | None = None,
) -> ScriptCall:
    """Move an active job to the delayed ones; `put_off_since_ms` is kept for the next claim."""
    fields = b""
    if failure is not None:
        fields = failure.fields()
    elif put_off_since_ms is not None:
        fields = _pack([PUT_OFF_FIELD, f"{job.attempts_made}:{put_off_since_ms}"])
    return ScriptCall(
        load_script("moveToDelayed"),
        (
            *(keys.marker, keys.active, keys.prioritized, keys.delayed, keys.job(job.id)),
            *(keys.events, keys.meta, keys.stalled, keys.wait, keys.limiter, keys.pc),
        ),
        (
            keys.base,
            now_ms(),
            job.id,
            token,
            delay_ms,
            "1" if skip_attempt else "0",
            fields,
            "0",
            b"",
        ),
    )


def give_back(keys: QueueKeys, job_id: str, token: str) -> ScriptCall:
    """Put an active job at the head of its queue again, no attempt spent."""
    return ScriptCall(
        load_script("moveJobFromActiveToWait"),
        (
            *(keys.active, keys.wait, keys.stalled, keys.paused, keys.meta),
            *(keys.limiter, keys.prioritized, keys.marker, keys.events),
        ),
        (job_id, token, keys.job(job_id)),
    )


def repair(keys: QueueKeys, job: StoredJob, token: str) -> ScriptCall:
    """Put right what the scripts that settle a job would stumble over."""
    pairs = [text for pair in job.repairs.items() for text in pair]
    return ScriptCall(load_script("repairJob"), (keys.job(job.id),), (token, *pairs))


def extend_locks(keys: QueueKeys, owners: Sequence[tuple[str, str]], lock_ms: int) -> ScriptCall:
    """Renew the locks of (job id, token) pairs; the reply lists the ids that could not be."""
    ids = [job_id for job_id, _ in owners]
    tokens = [token for _, token in owners]
    return ScriptCall(
        load_script("extendLocks"),
        (keys.stalled,),
        (keys.base, _pack(tokens), _pack(ids), lock_ms),
    )


def sweep_stalled(keys: QueueKeys, max_stalled_count: int, interval_ms: int) -> ScriptCall:
    """Put back jobs whose lock ran out; one caller wins in each interval. The reply lists ids."""
    return ScriptCall(
        load_script("moveStalledJobsToWait"),
        (
            *(keys.stalled, keys.wait, keys.active, keys.stalled_check, keys.meta),
            *(keys.paused, keys.marker, keys.events, keys.repeat),
        ),
        (max_stalled_count, keys.base, now_ms(), interval_ms),
    )


def count_jobs(keys: QueueKeys) -> ScriptCall:
    """Count the jobs in each of `COUNTED_STATES`, in that order."""
    return ScriptCall(load_script("getCounts"), (keys.base,), COUNTED_STATES)


def is_finished(keys: QueueKeys, job_id: str) -> ScriptCall:
    """Ask whether a job is completed or failed, and for its value."""
    return ScriptCall(
        load_script("isFinished"), (keys.completed, keys.failed, keys.job(job_id)), (job_id, "1")
    )


def update_progress(keys: QueueKeys, job_id: str, progress: bytes) -> ScriptCall:
    """Publish a job's progress, which must be JSON."""
    return ScriptCall(
        load_script("updateProgress"),
        (keys.job(job_id), keys.events, keys.meta),
        (job_id, progress),
    )


def add_log(keys: QueueKeys, job_id: str, line: str, keep: int | None) -> ScriptCall:
    """Append a line to a job's log."""
    return ScriptCall(
        load_script("addLog"),
        (keys.job(job_id), keys.logs(job_id)),
        (job_id, line, "" if keep is None else keep),
    )

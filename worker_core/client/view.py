"""Jobs as a client sees them: the reference to one, and a look at one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import attrs

from worker_core._bullmq.job import read_job
from worker_core._bullmq.replies import JobState
from worker_core.client.reading import NotJson, read_json
from worker_core.engine import JSON

__all__ = ["JobRef", "JobView", "read_view"]


@attrs.frozen
class JobRef:
    """Names one job; kept or sent elsewhere, it is good in any process."""

    id: str
    queue: str

    def __str__(self) -> str:
        return f"job {self.id} on {self.queue}"


@attrs.frozen(kw_only=True)
class JobView:
    """A job at one moment. What is not JSON in it is shown as text."""

    ref: JobRef
    name: str
    """The name that the producer gave it; its type, where that was a client of ours."""
    state: JobState
    data: JSON
    options: Mapping[str, JSON]
    """Under BullMQ's names: attempts, delay (ms), priority, ..."""
    progress: JSON
    """What its job type published last; `None` before that."""
    attempts_made: int
    max_attempts: int
    failed_reason: str | None
    """Of the last attempt that failed, also where another one followed."""
    stacktrace: tuple[str, ...]
    """A trace for each failed attempt, the newest last."""
    worker: str | None
    """Who runs it or ran it last."""
    created_at: datetime | None
    processed_at: datetime | None
    """When its last attempt began."""
    finished_at: datetime | None


def read_view(ref: JobRef, state: JobState, pairs: Sequence[bytes]) -> JobView:
    """Read `HGETALL`'s flat reply; never raises for what stands in it."""
    job = read_job(ref.id, pairs)
    fields = dict(zip(pairs[::2], pairs[1::2], strict=False))
    options = _json_or_text(fields.get(b"opts", b"{}"))
    return JobView(
        ref=ref,
        name=job.name,
        state=state,
        data=_json_or_text(job.data),
        options=options if isinstance(options, dict) else {},
        progress=_json_or_text(fields.get(b"progress", b"null")),
        attempts_made=job.attempts_made,
        max_attempts=max(1, job.options.attempts),
        failed_reason=_text(fields.get(b"failedReason")),
        stacktrace=job.stacktrace,
        worker=_text(fields.get(b"pb")),
        created_at=_moment(fields.get(b"timestamp")),
        processed_at=_moment(fields.get(b"processedOn")),
        finished_at=_moment(fields.get(b"finishedOn")),
    )


def _json_or_text(raw: bytes) -> JSON:
    try:
        return read_json(raw)
    except NotJson:
        return raw.decode("utf-8", "replace")


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "replace")


def _moment(raw: bytes | None) -> datetime | None:
    """Read milliseconds since the epoch."""
    try:
        return None if raw is None else datetime.fromtimestamp(float(raw) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None

"""Batches as a client sees them: how far one is, and what became of each of its items."""

from __future__ import annotations

import enum
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from worker_core._bullmq.cancelling import CANCELLED
from worker_core._bullmq.replies import JobState
from worker_core.batches import (
    BatchKeys,
    BatchPhase,
    BatchState,
    CompletedItem,
    FailedItem,
    PageSize,
    read_item,
    read_outcome,
    read_state,
)
from worker_core.client.errors import ItemsExpired, JobGone
from worker_core.client.flows import Command, look_at
from worker_core.client.reading import NotJson, read_json
from worker_core.client.result import Result, Usage, result_of
from worker_core.client.view import JobRef, JobView
from worker_core.engine import JSON
from worker_core.errors import InvalidRequest
from worker_core.request_fields import read_time_limit
from worker_core.strict_json import dumps

if TYPE_CHECKING:
    from worker_core._bullmq.keys import QueueKeys
    from worker_core.client.flows import Flow, Step

__all__ = [
    "BatchStatus",
    "BatchView",
    "ItemError",
    "ItemResult",
    "ItemStatus",
    "list_items",
    "look_at_batch",
]


class BatchStatus(enum.Enum):
    """Where a batch stands, in OpenAI's words."""

    VALIDATING = "validating"
    """It waits for its first run, or its requests are being looked at."""
    IN_PROGRESS = "in_progress"
    """Its items run, or it waits to go on with them."""
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    """Every item has an outcome; some may have failed."""
    FAILED = "failed"
    EXPIRED = "expired"
    """Its time ran out before its end."""
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


@attrs.frozen(kw_only=True)
class BatchView:
    """A batch at one moment."""

    ref: JobRef
    status: BatchStatus
    total: int
    """Its items; 0 where that is not known yet."""
    completed: int
    failed: int
    usage: Usage
    """Of all items that were answered so far."""
    created_at: datetime | None
    started_at: datetime | None
    """When its first item began."""
    ended_at: datetime | None
    expires_at: datetime | None
    """When its time runs out; `None` where it has all the time."""
    error: str | None
    """Why it failed."""
    meta: JSON
    """What its submitter keeps there."""
    job: JobView


class ItemStatus(enum.Enum):
    """How an item ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    NOT_RUN = "not_run"
    """It has no outcome, or none yet."""


@attrs.frozen
class ItemError:
    """Why an item failed."""

    failure: str
    """A `FailureClass` of the engine, or `invalid_request`, `deadline`, `error`."""
    message: str


@attrs.frozen(kw_only=True)
class ItemResult:
    """One item of a batch, and what became of it."""

    index: int
    custom_id: str
    type: str
    status: ItemStatus
    result: Result | None = None
    """As that of a job of its own; with `COMPLETED`."""
    error: ItemError | None = None
    """With `FAILED`."""


def look_at_batch(keys: QueueKeys, ref: JobRef) -> Flow[BatchView | None]:
    """Read a batch as it is now; `None` where there is no such job."""
    job = yield from look_at(keys, ref)
    if job is None:
        return None
    state = read_state((yield Command(("HGETALL", _keys(keys, ref).state)))) or BatchState()
    wish = yield Command(("HGET", keys.wishes, ref.id))
    if isinstance(wish, bytes):
        # Else the wish is about an earlier job of this id.
        wish = wish == (yield Command(("HGET", keys.job(ref.id), "timestamp")))
    status = _status(job, state.phase, is_wished=bool(wish))
    timeout = _timeout(job, state)
    expires = None if job.created_at is None or timeout is None else job.created_at + timeout
    return BatchView(
        ref=ref,
        status=status,
        total=_total(job, state) or 0,
        completed=state.completed,
        failed=state.failed,
        usage=Usage(
            prompt_tokens=state.prompt_tokens,
            completion_tokens=state.completion_tokens,
            total_tokens=state.prompt_tokens + state.completion_tokens,
        ),
        created_at=job.created_at,
        started_at=_moment(state.started_ms),
        ended_at=job.finished_at,
        expires_at=expires,
        error=job.failed_reason if job.state is JobState.FAILED else None,
        meta=state.meta,
        job=job,
    )


def _status(job: JobView, phase: BatchPhase, *, is_wished: bool) -> BatchStatus:
    match job.state:
        case JobState.COMPLETED:
            return BatchStatus.COMPLETED
        case JobState.FAILED if job.failed_reason == CANCELLED.decode():
            return BatchStatus.CANCELLED
        case JobState.FAILED if phase is BatchPhase.EXPIRED:
            return BatchStatus.EXPIRED
        case JobState.FAILED:
            return BatchStatus.FAILED
        case _ if is_wished:
            return BatchStatus.CANCELLING
        case _:
            pass
    match phase:
        case BatchPhase.VALIDATING | BatchPhase.INVALID:
            return BatchStatus.VALIDATING
        case BatchPhase.IN_PROGRESS | BatchPhase.STOPPED | BatchPhase.EXPIRED:
            return BatchStatus.IN_PROGRESS
        case BatchPhase.FINALIZING | BatchPhase.COMPLETED:
            return BatchStatus.FINALIZING


def list_items(
    keys: QueueKeys, ref: JobRef, *, page: int
) -> Generator[Step | ItemResult, object, None]:
    """Yield each item in order, and the calls that find it.

    Whoever drives it sends the replies to the calls, and hands on the rest. Raises `JobGone`, and
    `ItemsExpired`.
    """
    if page < 1:
        raise ValueError(f"page must be at least 1, not {page}")
    where = _keys(keys, ref)
    job = yield from look_at(keys, ref)
    state = read_state((yield Command(("HGETALL", where.state))))
    if job is None and state is None:
        raise JobGone(ref)
    total = _total(job, state or BatchState())
    if total is None or (state is None and job is not None and _has_run(job)):
        raise ItemsExpired(ref)
    asked = _Asked(ref, where, _inline(job))
    size = PageSize(page)
    begin = 0
    while begin < total:
        indexes = range(begin, min(begin + size.count, total))
        outcomes = yield Command(("HMGET", where.items, *indexes))
        if not isinstance(outcomes, list) or len(outcomes) != len(indexes):
            outcomes = [None] * len(indexes)
        if None in outcomes:
            yield from asked.read(indexes)
        for index, raw in zip(indexes, outcomes, strict=True):
            yield _read(index, raw) or asked.item(index)
        size.learn(outcomes)
        begin = indexes.stop


class _Asked:
    """What was asked for: the job's data or the stored list names the items without an outcome."""

    def __init__(self, ref: JobRef, where: BatchKeys, inline: Sequence[JSON] | None) -> None:
        self._ref = ref
        self._where = where
        self._inline = inline
        self._begin = 0
        self._page: Sequence[bytes | JSON] = inline or ()

    def read(self, indexes: range) -> Flow[None]:
        """Read the requests of a page."""
        if self._inline is None:
            first, last = indexes.start, indexes.stop - 1
            reply = yield Command(("LRANGE", self._where.requests, first, last))
            self._begin = first
            found = reply if isinstance(reply, list) else ()
            self._page = [one for one in found if isinstance(one, bytes)]

    def item(self, index: int) -> ItemResult:
        """Return an item that has no outcome."""
        place = index - self._begin
        if place >= len(self._page):
            raise ItemsExpired(self._ref)
        try:
            item = read_item(self._page[place])
        except InvalidRequest:
            # As its producer wrote it; the batch fails for it, or will.
            return ItemResult(index=index, custom_id="", type="", status=ItemStatus.NOT_RUN)
        return ItemResult(
            index=index, custom_id=item.custom_id, type=item.type, status=ItemStatus.NOT_RUN
        )


def _read(index: int, raw: object) -> ItemResult | None:
    """Read an item's outcome; `None` where it has none."""
    try:
        outcome = read_outcome(read_json(raw)) if isinstance(raw, bytes) else None
    except NotJson:
        return None
    match outcome:
        case CompletedItem(custom_id, kind, envelope):
            return ItemResult(
                index=index,
                custom_id=custom_id,
                type=kind,
                status=ItemStatus.COMPLETED,
                result=result_of(envelope, dumps(envelope)),
            )
        case FailedItem(custom_id, kind, failure, message):
            return ItemResult(
                index=index,
                custom_id=custom_id,
                type=kind,
                status=ItemStatus.FAILED,
                error=ItemError(failure, message),
            )
        case None:
            return None


def _keys(keys: QueueKeys, ref: JobRef) -> BatchKeys:
    return BatchKeys(keys.prefix, keys.name, ref.id)


def _inline(job: JobView | None) -> list[JSON] | None:
    """Return the requests that stand in the job's own data."""
    data = None if job is None else job.data
    requests = data.get("requests") if isinstance(data, dict) else None
    return requests if isinstance(requests, list) else None


def _total(job: JobView | None, state: BatchState) -> int | None:
    if state.total is not None or job is None:
        return state.total
    match job.data:
        case {"requests": [*requests]}:
            return len(requests)
        case {"stored": {"total": int(total)}}:
            return total
        case _:
            return None


def _has_run(job: JobView) -> bool:
    return job.finished_at is not None and job.processed_at is not None


def _timeout(job: JobView, state: BatchState) -> timedelta | None:
    if state.timeout_ms is not None:
        return timedelta(milliseconds=state.timeout_ms)
    match job.data:
        case {"timeout": int() | float() | str() as limit}:
            try:
                return read_time_limit(limit)
            except (ValueError, OverflowError):  # for which the batch will fail
                return None
        case _:
            return None


def _moment(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)

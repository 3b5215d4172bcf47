"""A batch on its way to its queue: into the job's data where it is small, else into a list of its own.

Items are taken one by one and leave in pages, so that a batch of any length costs no memory but
for the names of its items.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from worker_core._bullmq.adding import AddOptions
from worker_core._bullmq.calls import ScriptCall
from worker_core._bullmq.keys import QueueKeys
from worker_core.batches import (
    APPEND_REQUESTS,
    DEFAULT_TTL,
    DROP_BATCH,
    OPEN_BATCH,
    BatchItem,
    BatchKeys,
    OnError,
    item_faults,
)
from worker_core.client.errors import InvalidJob
from worker_core.client.flows import submit
from worker_core.client.submission import prepare, write_data
from worker_core.client.view import JobRef
from worker_core.errors import Fault
from worker_core.strict_json import item_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker_core.client.flows import Flow
    from worker_core.engine import JSON

__all__ = ["INLINE_LIMIT", "BatchSubmission"]

INLINE_LIMIT = 64 * 1024
"""Bytes of requests that go into the job's own data: more would hold up whoever reads it."""

_PAGE_ITEMS = 200
_PAGE_BYTES = 1024 * 1024
_FAULTS = 100
"""How many are named; the rest is counted."""
_MS = timedelta(milliseconds=1)


@attrs.define
class _Page:
    """Items to be sent together."""

    written: list[bytes] = attrs.field(factory=list)
    bytes: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.written) >= _PAGE_ITEMS or self.bytes >= _PAGE_BYTES


class BatchSubmission:
    """Submits one batch: `add` for each item, then `finish`; `abandon` where that fails.

    Each returns a flow, for the client to carry.
    """

    def __init__(
        self,
        prefix: str,
        *,
        queue: str,
        concurrency: int | None,
        on_error: OnError,
        timeout: timedelta | None,
        metadata: Mapping[str, JSON] | None,
        meta: Mapping[str, JSON] | None,
        inline_limit: int,
        options: AddOptions | None,
        on_stored: Callable[[int], None] | None,
    ) -> None:
        _check_queue(prefix, queue)
        how = options or AddOptions()
        # Needed before there is a job: its id names the keys of what is stored for it.
        job_id = how.job_id or f"batch_{secrets.token_hex(12)}"
        self._options = attrs.evolve(how, job_id=job_id)
        self._ref = JobRef(job_id, queue)
        self._keys = BatchKeys(prefix, queue, job_id)
        self._prefix = prefix
        self._rest = _members(concurrency, on_error, timeout, metadata)
        self._meta = write_data(meta or {}, "meta")
        self._has_meta = bool(meta)
        self._inline_limit = inline_limit
        self._on_stored = on_stored
        self._ttl_ms = (DEFAULT_TTL + (timeout or timedelta()) + how.delay) // _MS
        self._token = secrets.token_hex(12)
        self._places: dict[str, int] = {}
        self._faults: list[Fault] = []
        self._unnamed_faults = 0
        self._inline: list[JSON] | None = []
        """The items as long as they may go into the job's data."""
        self._page = _Page()
        self._stored = 0
        self._total = 0
        self._opened = False
        self._adding = False
        self._is_there = False
        """Whether a job of this id was there before: it is not added a second time."""

    def add(self, item: BatchItem) -> Flow[None]:
        """Take the next item; it is sent when a page of them is full."""
        index = self._total
        self._total += 1
        written = self._write(item, index)
        # Behind a fault nothing is sent, but the other items are still looked at.
        if written is None or self._faults or self._is_there:
            return
        self._page.written.append(written)
        self._page.bytes += len(written)
        if self._inline is not None:
            self._inline.append(_wire(item))
            if self._page.bytes <= self._inline_limit:
                return
            self._inline = None
            yield from self._open()
        if self._page.is_full:
            yield from self._store()

    def finish(self) -> Flow[JobRef]:
        """Send what is left, then the job; raises `InvalidJob` with the faults of all items."""
        if not self._total:
            self._fault(Fault("requests", "must not be empty"))
        if self._faults:
            raise InvalidJob(self._named_faults())
        if self._inline is None:
            yield from self._store()
            data: JSON = {"stored": {"total": self._total}, **self._rest}
        else:
            if self._has_meta:
                yield from self._open()
            data = {"requests": self._inline, **self._rest}
        if self._is_there:
            return self._ref
        submission = prepare(self._prefix, "batch", data, self._ref.queue, self._options)
        self._adding = True
        ref = yield from submit(submission)
        if self._inline is not None and self._on_stored is not None:
            self._on_stored(self._total)
        return ref

    def abandon(self) -> Flow[None]:
        """Leave nothing behind of a batch that was not submitted."""
        # Once the job was sent it may be there, though nobody has heard so.
        if not self._opened or self._adding:
            return
        keys = (self._keys.job, self._keys.requests, self._keys.items, self._keys.state)
        yield ScriptCall(DROP_BATCH, keys, (self._token,))

    def _write(self, item: BatchItem, index: int) -> bytes | None:
        """Return the item as it is sent, or note what is wrong with it."""
        path = item_path("requests", index)
        for fault in item_faults(item, path):
            self._fault(fault)
        first = self._places.setdefault(item.custom_id, index)
        if first != index:
            self._fault(
                Fault(f"{path}.custom_id", f"is that of requests[{first}] too: {item.custom_id!r}")
            )
        try:
            return write_data(_wire(item), path)
        except InvalidJob as error:
            for fault in error.faults:
                self._fault(fault)
            return None

    def _fault(self, fault: Fault) -> None:
        if len(self._faults) < _FAULTS:
            self._faults.append(fault)
        else:
            self._unnamed_faults += 1

    def _named_faults(self) -> list[Fault]:
        if not self._unnamed_faults:
            return self._faults
        return [*self._faults, Fault("", f"and {self._unnamed_faults} more")]

    def _open(self) -> Flow[None]:
        keys = (self._keys.job, self._keys.requests, self._keys.items, self._keys.state)
        self._opened = True
        opened = yield ScriptCall(OPEN_BATCH, keys, (self._token, self._ttl_ms, self._meta))
        self._is_there = opened == 0

    def _store(self) -> Flow[None]:
        """Send the items of the page."""
        written = iter(self._page.written)
        self._page = _Page()
        # Mostly one call; the first page, which was filled to another bound, may need several.
        while not self._is_there and (part := list(islice(written, _PAGE_ITEMS))):
            appended = yield ScriptCall(
                APPEND_REQUESTS,
                (self._keys.requests, self._keys.state),
                (self._token, self._stored, self._ttl_ms, *part),
            )
            if appended != 1:
                raise InvalidJob(
                    [Fault("job_id", "somebody else submits a batch of this id at this moment")]
                )
            self._stored += len(part)
            if self._on_stored is not None:
                self._on_stored(self._stored)


def _check_queue(prefix: str, queue: str) -> None:
    try:
        QueueKeys(prefix, queue)
    except ValueError as error:
        raise InvalidJob([Fault("queue", str(error))]) from None


def _wire(item: BatchItem) -> JSON:
    # By hand: a converter would walk through all of the body.
    return {"custom_id": item.custom_id, "type": item.type, "body": item.body}


def _members(
    concurrency: int | None,
    on_error: OnError,
    timeout: timedelta | None,
    metadata: Mapping[str, JSON] | None,
) -> dict[str, JSON]:
    """Return what stands in the job's data beside its items; what is not set is absent there."""
    faults = []
    members: dict[str, JSON] = {}
    if concurrency is not None:
        members["concurrency"] = concurrency
        if concurrency < 1:
            faults.append(Fault("concurrency", "must be at least 1"))
    if on_error is not OnError.CONTINUE:
        members["on_error"] = on_error.value
    if timeout is not None:
        members["timeout"] = timeout // _MS
        if timeout < _MS:
            faults.append(Fault("timeout", "must be longer than nothing"))
    if metadata:
        members["metadata"] = dict(metadata)
    if faults:
        raise InvalidJob(faults)
    return members

"""The call that completes a job, packed but for what differs from one job to the next.

It is made once a job, and to build and pack its twenty-six parts anew each time is a tenth of what
a quick job costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from worker_core._bullmq import calls
from worker_core._bullmq.job import JobOptions, StoredJob

if TYPE_CHECKING:
    from worker_core._bullmq.calls import ClaimOptions
    from worker_core._bullmq.keys import QueueKeys
    from worker_core.redis import Script

__all__ = ["PackedCompletion", "pack_completion"]

# They stand for what differs. No option, token or name of a queue can look like one of them packed:
# these are no text that a client could have meant.
_ID = "\x00id\x00"
_VALUE = b"\x00value\x00"
_AT_MS = -1


@attrs.frozen
class PackedCompletion:
    """What stands in front of the job's key, its id, the time and the value, and behind them."""

    script: Script
    _base: bytes
    _before_key: bytes
    _before_id: bytes
    _before_time: bytes
    _before_value: bytes
    _rest: bytes

    def of(self, job_id: bytes, at_ms: int, value: bytes) -> bytes:
        """Return the whole call for one job."""
        at = b"%d" % at_ms
        return b"%b$%d\r\n%b%b\r\n%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n%b" % (
            self._before_key,
            len(self._base) + len(job_id),
            self._base,
            job_id,
            self._before_id,
            len(job_id),
            job_id,
            self._before_time,
            len(at),
            at,
            self._before_value,
            len(value),
            value,
            self._rest,
        )


def pack_completion(
    keys: QueueKeys, token: str, job: JobOptions, options: ClaimOptions, *, fetch_next: bool
) -> PackedCompletion:
    """Pack what is the same in `calls.finish` for all completed jobs with these options."""
    marked = calls.finish(
        keys,
        StoredJob(id=_ID, options=job),
        token,
        calls.Finish(completed=True, value=_VALUE, at_ms=_AT_MS),
        options,
        fetch_next=fetch_next,
    )
    rest = marked.script.bind(marked.keys).pack(marked.args)
    before = []
    for mark in (keys.job(_ID).encode(), _ID.encode(), b"%d" % _AT_MS, _VALUE):
        head, found, rest = rest.partition(b"$%d\r\n%b\r\n" % (len(mark), mark))
        assert found
        before.append(head)
    key, job_id, at, value = before
    return PackedCompletion(marked.script, keys.base.encode(), key, job_id, at, value, rest)

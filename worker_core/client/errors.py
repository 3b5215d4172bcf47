"""What goes wrong for whoever submits jobs.

::

    WorkerCoreError
    └── ClientError
        ├── InvalidJob        the job was not submitted: it could not have been read
        ├── ItemsExpired      the batch ended, and its items' outcomes are not kept any more
        ├── JobFailed         the job failed for good
        ├── JobGone           the queue knows no such job
        ├── NotStreamed       the job completed, and there is no token stream of it
        ├── ResultExpired     the job completed, but its large result is not kept any more
        └── ResultTimeout     the job did not end in time; a TimeoutError too

Beside them stand the errors of Redis: `RedisUnavailable`, `ReplyLost`, `ReplyError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_core.durations import format_duration
from worker_core.errors import WorkerCoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from worker_core.client.view import JobRef
    from worker_core.errors import Fault

__all__ = [
    "ClientError",
    "InvalidJob",
    "ItemsExpired",
    "JobFailed",
    "JobGone",
    "NotStreamed",
    "ResultExpired",
    "ResultTimeout",
]


class ClientError(WorkerCoreError):
    """Something about a job that a client submitted or asked for."""


class InvalidJob(ClientError):
    """The job cannot be submitted; `faults` names each fault by its path. Nothing was sent."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("the job was not submitted: " + "; ".join(map(str, faults)))


class ItemsExpired(ClientError):
    """The batch is there, but what is kept of its items has expired."""

    def __init__(self, ref: JobRef) -> None:
        self.ref = ref
        super().__init__(
            f"what became of the items of {ref} is not kept any more ([plugins.batch] ttl of the worker)"
        )


class JobFailed(ClientError):
    """The job failed for good; `stacktrace` holds a trace for each attempt, the newest last."""

    def __init__(
        self, ref: JobRef, reason: str, *, attempts: int | None, stacktrace: Sequence[str]
    ) -> None:
        self.ref = ref
        self.reason = reason
        self.attempts = attempts
        """How many were made; `None` where the job was removed when it failed."""
        self.stacktrace = tuple(stacktrace)
        count = f" after {attempts} attempts" if attempts is not None and attempts > 1 else ""
        super().__init__(f"{ref} failed{count}: {reason}")


class JobGone(ClientError):
    """The queue has no such job: there never was one, or it was removed and its end forgotten."""

    def __init__(self, ref: JobRef) -> None:
        self.ref = ref
        super().__init__(f"{ref} does not exist: never added, or removed from the queue")


class NotStreamed(ClientError):
    """The job completed, and there is no token stream of it; its result may be there."""

    def __init__(self, ref: JobRef) -> None:
        self.ref = ref
        super().__init__(
            f"{ref} completed without a token stream: its data has no `stream: true`, or the stream "
            f"is kept no longer ([results] stream_ttl of the worker)"
        )


class ResultExpired(ClientError):
    """The job completed, but its result was kept under a key of its own that has expired."""

    def __init__(self, ref: JobRef, *, ttl: timedelta) -> None:
        self.ref = ref
        self.ttl = ttl
        """How long it was kept."""
        super().__init__(
            f"{ref} completed, but its result is gone: a result so large is kept for "
            f"{format_duration(ttl)} ([results] ttl of the worker)"
        )


class ResultTimeout(ClientError, TimeoutError):
    """The job did not end within the time given; it goes on, and may be asked for again."""

    def __init__(self, ref: JobRef, timeout: timedelta) -> None:
        self.ref = ref
        self.timeout = timeout
        super().__init__(f"{ref} did not end within {format_duration(timeout)}; it goes on")

"""What a job type raises to say that its job is neither done nor failed.

::

    WorkerCoreError
    └── JobSignal           no attempt is spent; the job runs again, from its beginning
        ├── DelayJob        after a time
        ├── GiveBack        when another worker takes it: this one stops
        ├── WaitForChildren when every child has ended
        └── RateLimited     when the queue, which is held back so long, goes on

To say that a job has failed for good, whatever attempts are left, raise `Unrecoverable`.
"""

from __future__ import annotations

from datetime import timedelta

from worker_core.errors import WorkerCoreError

__all__ = ["DelayJob", "GiveBack", "JobSignal", "RateLimited", "WaitForChildren"]

_LONGEST = timedelta(days=3650)
"""BullMQ keeps due times as `ms * 4096` in a double, which is exact until the year 2039."""


class JobSignal(WorkerCoreError):
    """The job is to run again later; no attempt is spent, and nothing is written of this run."""


class DelayJob(JobSignal):
    """Run the job again after this time."""

    def __init__(self, delay: timedelta) -> None:
        if not timedelta() <= delay <= _LONGEST:
            raise ValueError(f"a delay must be from nothing to ten years: {delay}")
        self.delay = delay
        super().__init__(f"delayed by {delay}")


class GiveBack(JobSignal):
    """Put the job back at the head of its queue, for the worker stops (`context.is_draining`).

    So a long job that has come to a good place to go on from need not use up the grace. Where the
    worker does not stop, the job is delayed by a second.
    """

    def __init__(self) -> None:
        super().__init__("given back to the queue")


class WaitForChildren(JobSignal):
    """Run the job again when none of its children is pending; at once where none is now."""

    def __init__(self) -> None:
        super().__init__("waits for its children")


class RateLimited(JobSignal):
    """Take no job from this queue for this time, by any worker that has a limit there; then go on.

    The job goes back to the head of the queue.
    """

    def __init__(self, duration: timedelta) -> None:
        if not timedelta(milliseconds=1) <= duration <= _LONGEST:
            raise ValueError(f"a rate limit must last from a millisecond to ten years: {duration}")
        self.duration = duration
        super().__init__(f"rate limited for {duration}")

"""Does nothing: what is left of a job's cost is the worker's."""

from __future__ import annotations

import time

import anyio
import attrs

from worker_core import JobContext, JobType, QueueSpec, hookimpl

__all__ = ["NoopPlugin"]


@attrs.frozen
class NoopRequest:
    """What the processors of the peers understand too."""

    wait_ms: int = 0
    tell_begin: bool = False
    """Whether to answer when the job began, in nanoseconds of the machine's monotonic clock."""


class NoopJobType(JobType[NoopRequest]):
    """Waits if it is told to, and ends."""

    name = "noop"
    queues = (QueueSpec("noop"),)
    request = NoopRequest
    needs_engine = False

    async def run(self, request: NoopRequest, context: JobContext) -> int | None:  # noqa: ARG002  # the protocol's
        """Run at once, or after `wait_ms`."""
        began = time.monotonic_ns() if request.tell_begin else None
        if request.wait_ms:
            await anyio.sleep(request.wait_ms / 1000)
        return began


class NoopPlugin:
    """Brings the job type `noop`."""

    @hookimpl
    def worker_core_job_types(self) -> list[NoopJobType]:
        """Provide the job type."""
        return [NoopJobType()]

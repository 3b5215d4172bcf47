"""The children of a job: other jobs that it waits for, on any queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from worker_core.add_options import AddOptions, ChildFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker_core.engine import JSON

__all__ = ["AddOptions", "ChildFailure", "ChildJobs"]


class ChildJobs(Protocol):
    """A running job's children, as `JobContext.children` gives them; each call asks Redis.

    A child is named by its key, as in BullMQ: `<prefix>:<queue>:<id>`. Raises `RedisError` where
    Redis cannot be asked.
    """

    async def values(self) -> Mapping[str, JSON]:
        """Return what the children that completed have returned."""
        ...

    async def failures(self) -> Mapping[str, str]:
        """Return why children failed whose failure does not fail this job."""
        ...

    async def pending(self) -> int:
        """Return how many children this job would wait for."""
        ...

    async def add(
        self,
        queue: str,
        data: object,
        *,
        name: str = "child",
        if_it_fails: ChildFailure = ChildFailure.WAIT,
        options: AddOptions | None = None,
    ) -> str:
        """Add a child and return its key; raise `WaitForChildren` to wait for it.

        `data` is anything that JSON can carry. A job that is run again would add its children
        again: one whose `options.job_id` is there already is not added a second time. Raises
        `ValueError` for what BullMQ does not take.
        """
        ...

"""The job type `batch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from worker_core import JobType
from worker_core.request_fields import tenant_in
from worker_core_batch.request import BatchRequest
from worker_core_batch.run import BatchRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker_core import JobContext, QueueSpec
    from worker_core_batch.settings import BatchSettings

__all__ = ["BatchJobType"]


class BatchJobType(JobType[BatchRequest]):
    """Lets the other job types answer many requests; what is done stays done, whatever happens."""

    name: ClassVar[str] = "batch"
    request: ClassVar[type[BatchRequest]] = BatchRequest
    needs_engine: ClassVar[bool] = False

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings

    @property
    def queues(self) -> Sequence[QueueSpec]:
        """The queues of the settings."""
        return self._settings.queues

    def tenant_of(self, request: BatchRequest) -> str | None:
        """Return `metadata.tenant`: that of each item which does not say whom it is for."""
        return tenant_in(request.metadata)

    async def run(self, request: BatchRequest, context: JobContext) -> dict[str, object]:
        """Run the items that have no outcome yet, and sum up."""
        return await BatchRun(request, context, self._settings).carry_out()

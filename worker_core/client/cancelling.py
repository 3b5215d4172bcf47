"""Cancelling a job, as clients do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_core._bullmq.calls import ClaimOptions
from worker_core._bullmq.cancelling import CANCELLED, Cancelling, CancelOutcome, cancel_job
from worker_core._bullmq.replies import FinalState

if TYPE_CHECKING:
    from worker_core._bullmq.keys import QueueKeys
    from worker_core._bullmq.replies import Final
    from worker_core.client.view import JobRef

__all__ = ["CancelOutcome", "cancel", "ended_as"]

# The lock is held for three calls. Where the client dies between them, the stalled check waits for
# its end; BullMQ's own workers lock for as long.
_AS_CLIENT = ClaimOptions(worker="client", lock_ms=30_000)


def cancel(keys: QueueKeys, ref: JobRef) -> Cancelling:
    """Cancel a job that waits, or keep the wish where a worker has it."""
    return cancel_job(keys, ref.id, _AS_CLIENT)


def ended_as(final: Final) -> CancelOutcome:
    """Say what became of a wish whose job has ended after it."""
    was_cancelled = final.state is FinalState.FAILED and final.value == CANCELLED
    return CancelOutcome.CANCELLED if was_cancelled else CancelOutcome.FINISHED

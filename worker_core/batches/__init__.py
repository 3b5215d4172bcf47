"""Batches: many requests in one job, and how they and their outcomes stand in Redis.

The job type `batch` writes what is here, clients read it; neither knows the other.
"""

from worker_core.batches.items import BatchItem, OnError, item_faults, read_item, write_item
from worker_core.batches.keys import BatchKeys
from worker_core.batches.outcomes import (
    CompletedItem,
    FailedItem,
    ItemOutcome,
    completed_outcome,
    failed_outcome,
    read_outcome,
)
from worker_core.batches.paging import PageSize
from worker_core.batches.scripts import (
    APPEND_REQUESTS,
    BEGIN_BATCH,
    DROP_BATCH,
    OPEN_BATCH,
    RECORD_ITEM,
)
from worker_core.batches.state import DEFAULT_TTL, BatchPhase, BatchState, read_state

__all__ = [
    "APPEND_REQUESTS",
    "BEGIN_BATCH",
    "DEFAULT_TTL",
    "DROP_BATCH",
    "OPEN_BATCH",
    "RECORD_ITEM",
    "BatchItem",
    "BatchKeys",
    "BatchPhase",
    "BatchState",
    "CompletedItem",
    "FailedItem",
    "ItemOutcome",
    "OnError",
    "PageSize",
    "completed_outcome",
    "failed_outcome",
    "item_faults",
    "read_item",
    "read_outcome",
    "read_state",
    "write_item",
]

"""Put a job on a queue, await its result, look at it; async on anyio, or plainly synchronous.

::

    async with open_client("redis://127.0.0.1:6379") as client:
        ref = await client.submit("chat", {"model": "llama3", "messages": [...]})
        result = await client.result(ref, timeout=timedelta(minutes=5))

    with SyncClient("redis://127.0.0.1:6379") as client:
        ref = client.submit("chat", {"model": "llama3", "messages": [...]})
        result = client.result(ref, timeout=timedelta(minutes=5))

Both do the same and raise the same errors. The async one runs on trio, as the worker does; a
program on asyncio calls the synchronous one in a thread.
"""

from worker_core._bullmq.adding import AddOptions
from worker_core._bullmq.cancelling import CancelOutcome
from worker_core._bullmq.job import Backoff
from worker_core._bullmq.replies import JobState
from worker_core.batches import BatchItem, OnError
from worker_core.client.asynchronous import Client, open_client
from worker_core.client.batch_submission import INLINE_LIMIT
from worker_core.client.batches import (
    BatchStatus,
    BatchView,
    ItemError,
    ItemResult,
    ItemStatus,
)
from worker_core.client.dead_letters import FoundLetter, LetterFilter, LetterRetry
from worker_core.client.errors import (
    ClientError,
    InvalidJob,
    ItemsExpired,
    JobFailed,
    JobGone,
    NotStreamed,
    ResultExpired,
    ResultTimeout,
)
from worker_core.client.following import TokenIterator
from worker_core.client.result import ModelUse, Result, Stored, Timings, Usage
from worker_core.client.submission import DEFAULT_QUEUES
from worker_core.client.synchronous import SyncClient
from worker_core.client.tokens import (
    TokenChunk,
    TokenEnd,
    TokenItem,
    TokenRestart,
    TokenStop,
)
from worker_core.client.view import JobRef, JobView
from worker_core.dead_letters import DeadLetter, FailedAttempt

__all__ = [
    "DEFAULT_QUEUES",
    "INLINE_LIMIT",
    "AddOptions",
    "Backoff",
    "BatchItem",
    "BatchStatus",
    "BatchView",
    "CancelOutcome",
    "Client",
    "ClientError",
    "DeadLetter",
    "FailedAttempt",
    "FoundLetter",
    "InvalidJob",
    "ItemError",
    "ItemResult",
    "ItemStatus",
    "ItemsExpired",
    "JobFailed",
    "JobGone",
    "JobRef",
    "JobState",
    "JobView",
    "LetterFilter",
    "LetterRetry",
    "ModelUse",
    "NotStreamed",
    "OnError",
    "Result",
    "ResultExpired",
    "ResultTimeout",
    "Stored",
    "SyncClient",
    "Timings",
    "TokenChunk",
    "TokenEnd",
    "TokenItem",
    "TokenIterator",
    "TokenRestart",
    "TokenStop",
    "Usage",
    "open_client",
]

"""What the tests share: a job type made of a function, a worker that dies, counting commands."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from tests.integration.support import PROBE
from worker_core import BackoffStrategy, JobContext, JobType, QueueSpec, hookimpl
from worker_core._bullmq.adding import AddOptions, add
from worker_core._bullmq.calls import ClaimOptions, claim
from worker_core._bullmq.keys import QueueKeys
from worker_core.testing.polling import eventually_async
from worker_core.testing.workers import plugin_under_test

if TYPE_CHECKING:
    import redis

    from worker_core._runtime.plugins import PluginClass

__all__ = [
    "BASE",
    "Given",
    "abandon",
    "calls_of",
    "claim_as_ghost",
    "count_in",
    "is_blocked",
    "processor",
    "put_together",
    "times_of",
]

BASE = f"bull:{PROBE}"


@attrs.frozen
class Given:
    """The data of the suite's jobs; what is missing takes its default."""

    n: int = 0
    text: str = ""
    seconds: float = 0.0


Run: TypeAlias = Callable[[Given, JobContext], Awaitable[object]]


def processor(
    run: Run, *queues: str | QueueSpec, backoffs: Sequence[BackoffStrategy] = ()
) -> PluginClass:
    """A plugin whose one job type is this function, fed by these queues (or by `probe`)."""
    specs = [q if isinstance(q, QueueSpec) else QueueSpec(q) for q in queues or (PROBE,)]

    class Processor(JobType[Given]):
        name = "processor"
        request = Given
        needs_engine = False

        @property
        def queues(self) -> list[QueueSpec]:
            return specs

        async def run(self, request: Given, context: JobContext) -> object:
            return await run(request, context)

    class ProcessorPlugin:
        @hookimpl
        def worker_core_job_types(self) -> list[JobType[Any]]:
            return [Processor()]

        @hookimpl
        def worker_core_backoff_strategies(self) -> Sequence[BackoffStrategy]:
            return backoffs

    return plugin_under_test("processor", ProcessorPlugin)


def put_together(client: redis.Redis, count: int, data: object, queue: str = PROBE) -> None:
    """Add so many jobs in one transaction, by EVAL: EVALSHA is the worker's alone then."""
    call = add(QueueKeys("bull", queue), "job", json.dumps(data).encode(), AddOptions())
    with client.pipeline() as together:
        for _ in range(count):
            together.eval(call.script.source, len(call.keys), *call.keys, *call.args)
        together.execute()


def claim_as_ghost(client: redis.Redis, queue: str = PROBE, *, lock_ms: int = 1) -> None:
    """Make the next job active for a worker that has died since."""
    options = ClaimOptions(worker="ghost", lock_ms=lock_ms)
    call = claim(QueueKeys("bull", queue), "ghost:0", options)
    client.eval(call.script.source, len(call.keys), *call.keys, *call.args)


async def abandon(client: redis.Redis, *job_ids: str, queue: str = PROBE) -> None:
    """Leave waiting jobs as a dead worker does: active, unlocked, seen by one stalled check."""
    for _ in job_ids:
        claim_as_ghost(client, queue)
    base = f"bull:{queue}"
    active = {job_id.decode() for job_id in client.lrange(f"{base}:active", 0, -1)}
    assert set(job_ids) <= active
    client.sadd(f"{base}:stalled", *job_ids)
    for job_id in job_ids:
        lock = f"{base}:{job_id}:lock"
        await eventually_async(lambda lock=lock: not client.exists(lock))


def calls_of(client: redis.Redis, command: str) -> int:
    """How often the server has been asked for a command so far."""
    stats = client.info("commandstats").get(f"cmdstat_{command}", {})
    return int(stats.get("calls", 0))


def is_blocked(client: redis.Redis) -> bool:
    """Whether a worker waits for a marker: it has asked for jobs, and there were none."""
    return any(one["cmd"] == "bzpopmin" for one in client.client_list())


def count_in(client: redis.Redis, state: str, queue: str = PROBE) -> int:
    """How many jobs are `completed`, `failed` or `delayed`."""
    return int(client.zcard(f"bull:{queue}:{state}"))


def times_of(client: redis.Redis, job_id: str, queue: str = PROBE) -> tuple[int, int, int]:
    """When a job was added, began and ended; milliseconds since the epoch."""
    added, began, ended = client.hmget(
        f"bull:{queue}:{job_id}", "timestamp", "processedOn", "finishedOn"
    )
    return int(added), int(began or 0), int(ended or 0)

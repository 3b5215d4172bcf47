"""What the tests of running workers share: adding jobs, asking where they stand, a job type that
behaves as it is told, and workers that can be watched ending."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from worker_core import JobContext, JobEvent, JobType, Outcome, QueueSpec, Unrecoverable, hookimpl
from worker_core._bullmq.adding import AddOptions, add
from worker_core._bullmq.keys import QueueKeys
from worker_core.testing.workers import build_worker, plugin_under_test, run_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import redis

    from worker_core._runtime.plugins import PluginClass
    from worker_core._runtime.worker import Worker

PROBE = "probe"
CHAT = "llm-chat"


def put(client: redis.Redis, queue: str, data: object, **options: Any) -> str:
    """Add a job as BullMQ's producers do; `data` as bytes goes in as it is."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    call = add(QueueKeys("bull", queue), "job", raw, AddOptions(**options))
    added: bytes = client.eval(call.script.source, len(call.keys), *call.keys, *call.args)
    return added.decode()


def chat(text: str) -> dict[str, object]:
    """The data of a chat job."""
    return {"model": "llama3", "messages": [{"role": "user", "content": text}]}


def state_of(client: redis.Redis, job_id: str, queue: str = PROBE) -> str | None:
    """Where a job stands; several places joined by `+`, for that is always a bug."""
    base = f"bull:{queue}"
    lists = ("wait", "active", "paused")
    found = [name for name in lists if client.lpos(f"{base}:{name}", job_id) is not None]
    sets = ("completed", "failed", "delayed", "prioritized", "waiting-children")
    found += [name for name in sets if client.zscore(f"{base}:{name}", job_id) is not None]
    return "+".join(found) or None


def fields_of(client: redis.Redis, job_id: str, queue: str = PROBE) -> dict[str, str]:
    """A job's hash as text."""
    return {
        name.decode(): value.decode("utf-8", "replace")
        for name, value in client.hgetall(f"bull:{queue}:{job_id}").items()
    }


def locks(client: redis.Redis) -> list[bytes]:
    """The locks that are held."""
    return list(client.scan_iter("bull:*:lock"))


@attrs.frozen
class ProbeRequest:
    """`answer`, `fail`, `fail for good`, after so many seconds; `hang`; or `ignore` a cancel so long."""

    do: str = "answer"
    seconds: float = 0.0
    text: str = ""


@attrs.define
class Ledger:
    """What the probe's runs did, by job id."""

    began: list[str] = attrs.field(factory=list)
    ended: list[str] = attrs.field(factory=list)
    cancelled: list[str] = attrs.field(factory=list)
    outcomes: list[tuple[str, Outcome]] = attrs.field(factory=list)
    """As the worker tells its observers."""


class ProbeJobType(JobType[ProbeRequest]):
    """Does what the request says, and writes it down."""

    name = PROBE
    request = ProbeRequest
    needs_engine = False

    def __init__(self, ledger: Ledger, queues: tuple[str, ...]) -> None:
        self._ledger = ledger
        self._queues = queues

    @property
    def queues(self) -> list[QueueSpec]:
        return [QueueSpec(name) for name in self._queues]

    async def run(self, request: ProbeRequest, context: JobContext) -> object:
        self._ledger.began.append(context.job.id)
        try:
            await _behave(request)
        except anyio.get_cancelled_exc_class():
            self._ledger.cancelled.append(context.job.id)
            raise
        self._ledger.ended.append(context.job.id)
        match request.do:
            case "fail":
                raise RuntimeError(request.text)
            case "fail for good":
                raise Unrecoverable(request.text)
            case _:
                return request.text or None


async def _behave(request: ProbeRequest) -> None:
    match request.do:
        case "hang":
            await anyio.sleep_forever()
        case "ignore":
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(request.seconds)
        case _:
            await anyio.sleep(request.seconds)


def probe(ledger: Ledger | None = None, *, queues: tuple[str, ...] = (PROBE,)) -> PluginClass:
    """A plugin with the probe job type, which writes into `ledger`."""
    record = ledger or Ledger()

    class ProbePlugin:
        @hookimpl
        def worker_core_job_types(self) -> list[JobType[Any]]:
            return [ProbeJobType(record, queues)]

        @hookimpl
        def worker_core_job_event(self, event: JobEvent) -> None:
            if event.outcome is not None:
                record.outcomes.append((event.job.id, event.outcome))

    return plugin_under_test(PROBE, ProbePlugin)


@attrs.frozen
class Running:
    """A worker in the test's own event loop."""

    worker: Worker
    ended: anyio.Event = attrs.field(factory=anyio.Event)

    async def stop(self, *, within: float) -> None:
        """Ask it to stop and wait for its end."""
        self.worker.request_stop("the test asks for it")
        with anyio.fail_after(within):
            await self.ended.wait()


@asynccontextmanager
async def running(
    url: str, plugin: PluginClass, settings: Mapping[str, Mapping[str, object]] | None = None
) -> AsyncIterator[Running]:
    """Run a worker with one plugin and no engine; it is stopped at once at the end."""
    tables: dict[str, Any] = {name: dict(table) for name, table in (settings or {}).items()}
    tables["redis"] = {"url": url, **tables.get("redis", {})}
    tables["worker"] = {"engine": "none", **tables.get("worker", {})}
    one = Running(build_worker(tables, [plugin]))

    async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await run_worker(one.worker, task_status=task_status)
        one.ended.set()

    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(run)
        try:
            yield one
        except Exception as error:  # noqa: BLE001  # raised again below, outside of the group
            failure = error
        one.worker.hurry("the test has ended")
    if failure is not None:
        raise failure

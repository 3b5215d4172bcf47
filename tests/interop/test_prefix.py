"""Everything goes by the prefix of the configuration."""

from __future__ import annotations

from datetime import timedelta

from tests.conformance.support import processor
from tests.integration.support import PROBE, running
from worker_core import DelayJob, QueueSpec, RateLimited, WaitForChildren
from worker_core.testing.polling import eventually_async

KIDS = "kids"


async def test_a_job_that_does_all_that_a_job_may_stays_under_its_prefix(valkey, app):
    async def does_all(request, context):
        if context.job.queue == KIDS:
            return "grown"
        runs.append(context.job.id)
        match len(runs):
            case 1:
                raise DelayJob(timedelta(milliseconds=10))
            case 2:
                raise RateLimited(timedelta(milliseconds=10))
            case 3:
                await context.children.add(KIDS, {})
                raise WaitForChildren
            case 4:
                raise RuntimeError("again")
            case _:
                return [value["answer"] for value in (await context.children.values()).values()]

    runs = []
    prefix = {"prefix": "{app}"}
    template = {"opts": {"attempts": 2, "backoff": 10}}
    plugin = processor(does_all, QueueSpec(PROBE), QueueSpec(KIDS))
    async with running(valkey.url, plugin, {"queue": prefix}):
        first = await app.call(
            PROBE, "upsertJobScheduler", "tick", {"every": 60_000}, template, options=prefix
        )
        completed = f"{{app}}:{PROBE}:completed"
        await eventually_async(lambda: valkey.client.zscore(completed, first["id"]))
        counts = await app.call(PROBE, "getJobCounts", options=prefix)
        workers = await app.call(PROBE, "getWorkers", options=prefix)
    assert runs == [first["id"]] * 5
    assert (counts["completed"], counts["delayed"]) == (1, 1)
    assert len(workers) == 1
    assert {name.split(b":")[0] for name in valkey.client.scan_iter()} == {b"{app}"}

"""The trace that a Node producer gives a job along: read, kept, passed on."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from tests.conformance.support import processor
from tests.integration.support import PROBE, fields_of, running
from worker_core import AddOptions, DelayJob, WaitForChildren
from worker_core.testing.polling import eventually_async

TRACE = '{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'
KIDS = "kids"


def options_of(client, job_id, queue=PROBE):
    return json.loads(fields_of(client, job_id, queue)["opts"])


async def test_a_job_type_sees_the_trace_at_each_attempt(valkey, app):
    async def sees(request, context):
        seen.append(context.job.telemetry)
        if len(seen) == 1:
            raise DelayJob(timedelta(milliseconds=20))
        if len(seen) < 4:
            raise RuntimeError("again")
        return "done"

    seen = []
    events = await app.listen(PROBE)
    async with running(valkey.url, processor(sees)):
        job_id = await app.add_one(
            PROBE, telemetry={"metadata": TRACE}, attempts=5, backoff={"type": "fixed", "delay": 20}
        )
        await events.wait_for("completed", job_id)
    assert seen == [TRACE] * 4
    assert options_of(valkey.client, job_id)["tm"] == TRACE


@pytest.mark.parametrize(
    ("telemetry", "options", "expected"),
    [
        ({"metadata": TRACE}, AddOptions(), {"tm": TRACE}),
        ({"metadata": TRACE, "omitContext": True}, AddOptions(), {}),
        ({"metadata": TRACE}, AddOptions(telemetry="another"), {"tm": "another"}),
        ({"metadata": TRACE}, AddOptions(omit_telemetry=True), {"omc": True}),
        (None, AddOptions(), {}),
    ],
    ids=["passed on", "ends with the job", "another", "none wanted", "none there"],
)
async def test_children_are_given_the_trace(valkey, app, telemetry, options, expected):
    async def adds(request, context):
        await context.children.add(KIDS, {}, options=options)
        raise WaitForChildren

    async with running(valkey.url, processor(adds)):
        await app.add_one(PROBE, **({"telemetry": telemetry} if telemetry else {}))
        await eventually_async(lambda: valkey.client.llen(f"bull:{KIDS}:wait"))
    [child] = valkey.client.lrange(f"bull:{KIDS}:wait", 0, -1)
    found = options_of(valkey.client, child.decode(), KIDS)
    assert {name: found[name] for name in ("tm", "omc") if name in found} == expected


async def test_the_next_job_of_a_scheduler_is_given_the_trace(valkey, app):
    async def done(request, context):
        seen.append(context.job.telemetry)

    seen = []
    template = {"opts": {"telemetry": {"metadata": TRACE}}}
    async with running(valkey.url, processor(done)):
        await app.call(PROBE, "upsertJobScheduler", "tick", {"every": 200}, template)
        await eventually_async(lambda: len(seen) >= 3)
    assert set(seen) == {TRACE}

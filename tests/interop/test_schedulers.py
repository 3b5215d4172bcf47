"""Job schedulers that Node makes, and ours moves on: by a pattern, in slots, to their end."""

from __future__ import annotations

import json
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from tests.integration.support import PROBE, Ledger, fields_of, probe, running
from worker_core.testing.polling import eventually_async

SECONDS = "* * * * * *"
DIFFERENT = ("timestamp", "delay", "rjk")
"""What differs between two jobs that two schedulers of the same kind have made."""


async def schedule(app, repeat, scheduler="tick", **template):
    """Make a scheduler and return its first job's id."""
    first = await app.call(PROBE, "upsertJobScheduler", scheduler, repeat, template)
    return first["id"]


def due_ms(job_id):
    return int(job_id.rpartition(":")[2])


async def test_a_pattern_brings_a_job_each_second(valkey, app):
    events = await app.listen(PROBE)
    template = {"data": {"text": "tick"}, "opts": {"attempts": 3, "removeOnFail": 5}}
    async with running(valkey.url, probe()):
        await schedule(app, {"pattern": SECONDS}, **template)
        await events.wait_for("completed", count=4)
    ids = [line["jobId"] for line in events.of("completed")[:4]]
    assert [due_ms(job_id) - due_ms(ids[0]) for job_id in ids] == [0, 1000, 2000, 3000]
    for job_id in ids:
        job = await app.job(PROBE, job_id)
        assert job["returnvalue"]["answer"] == "tick"
        # It began when it was due, not before.
        assert 0 <= job["processedOn"] - due_ms(job_id) < 800
    scheduler = await app.call(PROBE, "getJobScheduler", "tick")
    assert scheduler["iterationCount"] >= 5
    assert scheduler["template"]["opts"]["attempts"] == 3


async def test_the_next_job_is_as_node_would_have_made_it(valkey, app):
    """A scheduler moved on by each of both: what they leave behind differs in times alone."""
    repeat = {"pattern": "0 9 * * *", "tz": "Europe/Berlin", "limit": 9}
    backoff = {"type": "fixed", "delay": 500}
    template = {
        "name": "job",
        "data": {},
        "opts": {"attempts": 2, "backoff": backoff, "keepLogs": 7},
    }

    async def moved_on(scheduler):
        first = await schedule(app, {**repeat, "immediately": True}, scheduler, **template)
        await events.wait_for("completed", first)
        return (await app.call(PROBE, "getJobScheduler", scheduler))["next"]

    events = await app.listen(PROBE)
    await app.work(PROBE)
    by_node = fields_of(valkey.client, f"repeat:a:{await moved_on('a')}")
    await app.close_worker(PROBE)
    async with running(valkey.url, probe()):
        next_ms = await moved_on("b")
    by_ours = fields_of(valkey.client, f"repeat:b:{next_ms}")
    assert datetime.fromtimestamp(next_ms / 1000, ZoneInfo("Europe/Berlin")).hour == 9

    def comparable(fields):
        options = json.loads(fields["opts"])
        for timed in ("timestamp", "delay", "jobId", "repeatJobKey"):
            del options[timed]
        # Node writes null where it knows no offset.
        repeat = {name: value for name, value in options["repeat"].items() if value is not None}
        return fields | {"opts": {**options, "repeat": repeat}} | dict.fromkeys(DIFFERENT)

    assert comparable(by_ours) == comparable(by_node)


@pytest.mark.parametrize("ending", [{"limit": 3}, {"endDate": True}], ids=["limit", "end date"])
@pytest.mark.parametrize("pace", [{"every": 300}, {"pattern": SECONDS}], ids=["every", "pattern"])
async def test_a_scheduler_ends(valkey, app, pace, ending):
    events = await app.listen(PROBE)
    seconds, microseconds = valkey.client.time()
    now_ms = seconds * 1000 + microseconds // 1000
    ends_ms = now_ms + 2500
    ending = {"endDate": ends_ms} if "endDate" in ending else ending
    async with running(valkey.url, probe()):
        await schedule(app, {**pace, **ending})
        await events.wait_for("completed", count=3 if "limit" in ending else 2)
        await eventually_async(
            lambda: (
                valkey.client.time()[0] * 1000 > ends_ms + 500
                and not valkey.client.zcard(f"bull:{PROBE}:delayed")
            ),
        )
    ids = [line["jobId"] for line in events.of("completed")]
    if "limit" in ending:
        assert len(ids) == 3
    else:
        assert due_ms(ids[-1]) <= ends_ms + 300  # in slots, the last is looked at when it is made


async def test_slots_keep_their_offset(valkey, app):
    events = await app.listen(PROBE)
    async with running(valkey.url, probe()):
        await schedule(app, {"every": 500, "offset": 120})
        await events.wait_for("completed", count=4)
    slots = [due_ms(line["jobId"]) for line in events.of("completed")[1:4]]
    assert {slot % 500 for slot in slots} == {120}


async def test_a_job_that_fails_is_retried_and_makes_one_next_job(valkey, app):
    events = await app.listen(PROBE)
    async with running(valkey.url, probe()):
        template = {"data": {"do": "fail", "text": "no"}, "opts": {"attempts": 3, "backoff": 50}}
        await schedule(app, {"every": 60_000}, **template)
        await events.wait_for("failed")
    assert len(events.of("added")) == 2
    assert valkey.client.zcard(f"bull:{PROBE}:delayed") == 1
    assert (await app.call(PROBE, "getJobScheduler", "tick"))["iterationCount"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pattern": "never"}, "no cron pattern"),
        ({"tz": "Mars/Olympus"}, "no time zone"),
        ({"pattern": None}, "either a pattern or a number"),
    ],
)
async def test_a_job_whose_scheduler_cannot_go_on_runs_all_the_same(valkey, app, change, said):
    client, ledger = valkey.client, Ledger()
    events = await app.listen(PROBE)
    first = await schedule(app, {"pattern": SECONDS, "startDate": 4_000_000_000_000})
    options = json.loads(fields_of(client, first)["opts"])
    options["repeat"] |= change
    client.hset(f"bull:{PROBE}:{first}", "opts", json.dumps(options))
    with capture_logs() as logs:
        async with running(valkey.url, probe(ledger)):
            await app.call(PROBE, "promoteJobs")
            await events.wait_for("completed", first)
    [warning] = [line for line in logs if "scheduler" in line]
    assert (warning["log_level"], warning["scheduler"]) == ("warning", "tick")
    assert said in warning["reason"]


async def test_a_scheduler_that_is_removed_makes_no_more_jobs(valkey, app):
    events = await app.listen(PROBE)
    first = await schedule(app, {"every": 200, "startDate": 4_000_000_000_000})
    raw = fields_of(valkey.client, first)
    await app.call(PROBE, "removeJobScheduler", "tick")
    client = valkey.client
    client.hset(f"bull:{PROBE}:{first}", mapping={**raw, "delay": 0})
    client.lpush(f"bull:{PROBE}:wait", first)
    async with running(valkey.url, probe()):
        await events.wait_for("completed", first)
    assert client.zcard(f"bull:{PROBE}:delayed") == 0

"""How many calls to the server the jobs take, counted on the wire."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio

from tests.chaos.gate import run_gate
from tests.conformance.support import calls_of
from tests.integration.support import PROBE, Ledger, probe, put, running
from worker_core.testing.polling import eventually_async


@asynccontextmanager
async def counted(valkey, ledger, settings):
    """Run a worker behind a gate that counts its calls by script."""
    async with anyio.create_task_group() as tasks:
        gate = await tasks.start(run_gate, valkey.server.port)
        async with running(gate.url, probe(ledger), settings):
            yield gate
        tasks.cancel_scope.cancel()


def is_blocked(client):
    """Whether a worker waits at the server for the next job."""
    return any(one["cmd"] == "bzpopmin" and "b" in one["flags"] for one in client.client_list())


async def test_a_backlog_takes_one_call_a_job(valkey):
    """A finish brings the next job along: only the first of each slot is claimed by itself."""
    client, ledger, total, slots = valkey.client, Ledger(), 200, 4
    for _ in range(total):
        put(client, PROBE, {})
    async with counted(valkey, ledger, {"worker": {"concurrency": slots}}) as gate:
        await eventually_async(lambda: len(ledger.outcomes) == total)
        assert gate.calls["moveToFinished"] == total
        assert slots <= gate.calls["moveToActive"] <= 2 * slots + 2


async def test_an_idle_worker_asks_once_a_slot_and_once_more(valkey):
    """As BullMQ's own: `moveToActive` is called concurrency + 1 times, and then it blocks."""
    client, ledger, slots = valkey.client, Ledger(), 3
    settings = {"worker": {"concurrency": slots}, "queue": {"drain_delay": "1m"}}
    for _ in range(slots):
        put(client, PROBE, {"seconds": 0.3})
    async with counted(valkey, ledger, settings) as gate:
        await eventually_async(lambda: len(ledger.outcomes) == slots)
        await eventually_async(lambda: is_blocked(client))
        # One more for the marker that a claim leaves behind for others.
        assert slots + 1 <= gate.calls["moveToActive"] <= slots + 2


async def test_hearing_who_is_to_be_cancelled_costs_no_call_a_job(valkey):
    """One subscription, and one look at the wishes behind it, however many jobs there are."""
    client, ledger, total = valkey.client, Ledger(), 200
    client.config_resetstat()
    async with counted(valkey, ledger, {"worker": {"concurrency": 4}}) as gate:
        await eventually_async(lambda: gate.calls["reviewWishes"] == 1)
        for _ in range(total):
            put(client, PROBE, {})
        await eventually_async(lambda: len(ledger.outcomes) == total)
        assert gate.calls["reviewWishes"] == 1
        assert gate.calls["endCancel"] == gate.calls["beginCancel"] == 0
        assert (calls_of(client, "subscribe"), calls_of(client, "publish")) == (1, 0)

"""Wishes find their way where the server is one of several."""

from __future__ import annotations

from datetime import timedelta

import anyio
import anyio.to_thread
import pytest

from tests.integration.support import PROBE, Ledger, probe, running
from tests.integration.topology_support import SERVICE, cluster, watched
from worker_core import Outcome
from worker_core.client import AddOptions, CancelOutcome, open_client
from worker_core.redis.cluster import prefix_slot
from worker_core.testing.polling import eventually, eventually_async

PREFIX = "{bull}"
SOON = timedelta(seconds=10)
LATER = AddOptions(delay=timedelta(hours=1))


@pytest.fixture
def nodes(free_tcp_port_factory):
    with cluster(free_tcp_port_factory) as started:
        yield started


@pytest.fixture
def group(free_tcp_port_factory, tmp_path):
    with watched(free_tcp_port_factory, tmp_path) as started:
        yield started


async def cancel_both(client, ledger):
    """Cancel a job that waits and one that runs."""
    waits = await client.submit(PROBE, {}, queue=PROBE, options=LATER)
    assert await client.cancel(waits) is CancelOutcome.CANCELLED
    began = len(ledger.began)
    runs = await client.submit(PROBE, {"do": "hang"}, queue=PROBE)
    await eventually_async(lambda: len(ledger.began) > began, within=20)
    assert await client.cancel(runs) is CancelOutcome.REQUESTED
    await eventually_async(lambda: (runs.id, Outcome.CANCELLED) in ledger.outcomes, within=20)


async def test_in_a_cluster_also_after_the_slot_has_moved(nodes):
    ledger, slot = Ledger(), prefix_slot(PREFIX)
    settings = {"queue": {"prefix": PREFIX}}
    async with (
        running(nodes.url, probe(ledger), settings),
        open_client(nodes.url, prefix=PREFIX) as client,
    ):
        await cancel_both(client, ledger)
        target = (nodes.owner(slot) + 1) % len(nodes.servers)
        await anyio.to_thread.run_sync(nodes.move, slot, target)
        await cancel_both(client, ledger)


async def test_with_sentinels_also_after_a_failover(group):
    ledger = Ledger()
    async with running(group.url, probe(ledger)), open_client(group.url, patience=SOON) as client:
        await cancel_both(client, ledger)
        with group.witness() as witness:
            assert witness.wait(1, 5000) == 1
        before = group.primary_port()
        with group.sentinel() as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)
        await anyio.to_thread.run_sync(
            lambda: eventually(lambda: group.primary_port() != before, within=30)
        )
        await cancel_both(client, ledger)

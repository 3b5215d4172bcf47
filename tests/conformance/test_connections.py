"""Connections that break, and servers that change their role."""

from __future__ import annotations

import anyio
import pytest

from tests.conformance.node import NodeApp
from tests.conformance.reference import symptom
from tests.conformance.servers import Server
from tests.conformance.support import BASE, calls_of, count_in, is_blocked
from tests.integration.support import PROBE, Ledger, fields_of, probe, put, running, state_of
from worker_core.testing.polling import eventually, eventually_async
from worker_core.testing.proxy import open_chaos_proxy


def kill_blocked(client, proxy):
    """The server ends the connection that waits for markers; the other one lives."""
    for one in client.client_list():
        if one["cmd"] == "bzpopmin":
            client.client_kill_filter(_id=one["id"])


def reset_all(client, proxy):
    """The network resets every connection."""
    assert proxy.cut(reset=True)


@symptom("stops after the connection is reset")
@pytest.mark.parametrize("break_it", [kill_blocked, reset_all])
async def test_a_worker_goes_on_after_a_reset_though_the_marker_went_with_it(
    valkey, node, break_it
):
    """Jobs wait and are due, and nothing tells of them any more: the worker has to ask."""
    client, ledger = valkey.client, Ledger()
    events = await node.listen(PROBE)
    async with open_chaos_proxy("127.0.0.1", valkey.server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        # A block lasts so long that its end cannot be what helps.
        async with running(url, probe(ledger), {"queue": {"drain_delay": "30s"}}):
            for _ in range(3):
                await eventually_async(lambda: is_blocked(client))
                proxy.blackhole()
                waiting, due = await node.add(
                    PROBE, {"data": {}}, {"data": {}, "opts": {"delay": 100}}
                )
                client.delete(f"{BASE}:marker")
                break_it(client, proxy)
                proxy.restore()
                await events.wait_for("completed", waiting, within=5)
                await events.wait_for("completed", due, within=5)
    assert len(ledger.began) == len(set(ledger.began)) == 6


@pytest.fixture
def pair(valkey_server):
    """Two servers of the test's own, the second a copy of the first."""
    at_once = ("--repl-diskless-sync-delay", "0")
    with (
        Server(valkey_server.kind, *at_once) as primary,
        Server(valkey_server.kind, *at_once) as replica,
        primary.connect() as one,
        replica.connect() as other,
    ):
        yield primary, one, replica, other


async def follow(client, server):
    """Make a server the replica of another and wait until it has its data."""
    client.replicaof("127.0.0.1", server.port)
    await eventually_async(lambda: client.info("replication")["master_link_status"] == "up")


def efforts(client):
    """How often a server was connected to, and asked to run a script or to block."""
    connects = client.info("stats")["total_connections_received"]
    return connects, calls_of(client, "evalsha") + calls_of(client, "bzpopmin")


@symptom("READONLY on failover")
async def test_a_worker_waits_out_a_failover_without_a_busy_loop(pair):
    """Its server becomes a replica, refuses every write, and is promoted again later."""
    primary, client, replica, other = pair
    ledger = Ledger()
    await follow(other, primary)
    async with running(primary.url, probe(ledger)):
        first = put(client, PROBE, {})
        await eventually_async(lambda: state_of(client, first) == "completed")
        running_meanwhile = put(client, PROBE, {"seconds": 0.5})
        await eventually_async(lambda: running_meanwhile in ledger.began)
        # The copy has all of it before it takes over.
        client.wait(1, 5000)
        other.replicaof("NO", "ONE")
        await follow(client, replica)
        await eventually_async(lambda: running_meanwhile in ledger.ended)
        before, until = efforts(client), anyio.current_time() + 1.5
        await eventually_async(lambda: anyio.current_time() > until)
        connects, calls = (b - a for a, b in zip(before, efforts(client), strict=True))
        assert state_of(client, running_meanwhile) == "active"
        client.replicaof("NO", "ONE")
        await eventually_async(lambda: count_in(client, "completed") == 2)
        after = put(client, PROBE, {})
        await eventually_async(lambda: state_of(client, after) == "completed")
    # Each link tries again, less and less often; nothing is asked of a server that would refuse.
    assert connects < 40
    assert calls <= 2
    assert ledger.began == ledger.ended == [first, running_meanwhile, after]
    assert fields_of(client, running_meanwhile)["ats"] == "1"


@pytest.fixture(scope="module")
def cluster(valkey_server, free_tcp_port_factory):
    """A Cluster of one node, which has all the slots and still wants each call's keys in one."""
    # Its other port is 10000 further by default, which may be one too high.
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_tcp_port_factory()))
    with Server(valkey_server.kind, *options) as node, node.connect() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield node


@symptom("CROSSSLOT")
@pytest.mark.parametrize("scheme", ["redis+cluster", "redis"])
def test_a_cluster_is_refused_at_the_start_where_the_prefix_has_no_hash_tag(
    cluster, start_process, scheme
):
    """Otherwise each script would fail, for its keys lie in several slots."""
    process = start_process(
        *("--plugins", "echo", "--engine", "none"),
        environment={"REDIS_URL": f"{scheme}://127.0.0.1:{cluster.port}"},
    )
    assert process.wait(within=20) != 0
    assert "hash tag" in process.log
    assert "write '{bull}'" in process.log


@symptom("CROSSSLOT")
async def test_a_cluster_is_served_where_the_prefix_has_a_hash_tag(cluster, node_modules):
    application = NodeApp(cluster.url)
    try:
        tagged = {"prefix": "{bull}"}
        settings = {"queue": tagged, "redis": {"start_timeout": "10s"}}
        async with running(f"redis+cluster://127.0.0.1:{cluster.port}", probe(), settings):
            events = await application.listen(PROBE, options=tagged)
            ids = await application.add(PROBE, *[{"data": {"text": "hi"}}] * 20, options=tagged)
            for job_id in ids:
                await events.wait_for("completed", job_id)
    finally:
        application.close()

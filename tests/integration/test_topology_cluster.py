"""Cluster: a worker stays with the node that owns its prefix's slot, wherever that goes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import timedelta

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner

from tests.integration.link_support import FAST, linked
from tests.integration.support import PROBE, Ledger, probe, running
from tests.integration.topology_support import cluster
from worker_core import Outcome
from worker_core.cli import main
from worker_core.client import SyncClient, open_client
from worker_core.errors import ConfigError, RedisUnavailable, ReplyError
from worker_core.redis import Endpoint, Redis, connector_to, open_link
from worker_core.redis.cluster import prefix_slot
from worker_core.testing.polling import eventually_async
from worker_core.testing.workers import build_worker

SECOND = timedelta(seconds=1)
PREFIX = "{bull}"
SLOT = prefix_slot(PREFIX)
TAGGED = {"queue": {"prefix": PREFIX}}


@pytest.fixture(scope="module")
def nodes(free_tcp_port_factory):
    with cluster(free_tcp_port_factory) as started:
        yield started


@pytest.fixture(autouse=True)
def _empty(request):
    if "nodes" in request.fixturenames:
        group = request.getfixturevalue("nodes")
        for index in range(len(group.servers)):
            with group.client(index) as client:
                client.flushall()


@pytest.fixture
def owner(nodes):
    """The node that owns the prefix's slot now."""
    return nodes.owner(SLOT)


def plain(nodes, index):
    return f"redis://127.0.0.1:{nodes.servers[index].port}"


def settings_for(url, **queue):
    return {"redis": {"url": url}, "worker": {"engine": "none"}, "queue": queue}


async def in_thread(call, *args):
    return await anyio.to_thread.run_sync(call, *args)


def connector(nodes, prefix=PREFIX):
    return connector_to(Endpoint.from_url(nodes.url), prefix=prefix)


async def test_a_job_from_either_client_to_a_worker(nodes, owner):
    def ask_synchronously():
        with SyncClient(nodes.url, prefix=PREFIX) as client:
            ref = client.submit(PROBE, {"text": "two"}, queue=PROBE)
            return client.result(ref, timeout=10 * SECOND)

    async with (
        running(nodes.url, probe(), TAGGED),
        open_client(nodes.url, prefix=PREFIX) as client,
    ):
        ref = await client.submit(PROBE, {"text": "one"}, queue=PROBE)
        assert (await client.result(ref, timeout=10 * SECOND)).answer == "one"
        assert (await in_thread(ask_synchronously)).answer == "two"
    with nodes.client(owner) as witness:
        assert witness.zcard(f"{PREFIX}:{PROBE}:completed") == 2


async def test_a_large_result_is_kept_under_the_prefix_too(nodes):
    settings = {**TAGGED, "results": {"inline_limit": 100}}
    async with (
        running(nodes.url, probe(), settings),
        open_client(nodes.url, prefix=PREFIX) as client,
    ):
        ref = await client.submit(PROBE, {"text": "x" * 5000}, queue=PROBE)
        assert (await client.result(ref, timeout=10 * SECOND)).answer == "x" * 5000


async def test_the_command_line_finds_queues_and_workers(nodes):
    arguments = ["queue", "stats", "--json", "--redis-url", nodes.url, "--prefix", PREFIX]
    # In a process of its own, since click's runner would take the worker's log for its output.
    command = [sys.executable, "-c", "from worker_core.cli import main; main()", *arguments]
    async with (
        running(nodes.url, probe(), TAGGED),
        open_client(nodes.url, prefix=PREFIX) as client,
    ):
        ref = await client.submit(PROBE, {}, queue=PROBE)
        await client.result(ref, timeout=10 * SECOND)

        async def listed():
            done = await anyio.run_process(command)
            queues = json.loads(done.stdout)["queues"]
            return [(one["name"], len(one["workers"])) for one in queues] == [(PROBE, 1)]

        await eventually_async(listed, within=20)


# The slot moves


async def test_jobs_run_on_while_their_slot_moves_back_and_forth(nodes, owner):
    ledger = Ledger()
    settings = {**TAGGED, "worker": {"concurrency": 4}}
    async with (
        running(nodes.url, probe(ledger), settings),
        open_client(nodes.url, prefix=PREFIX, patience=20 * SECOND, poll=60 * SECOND) as client,
        anyio.create_task_group() as tasks,
    ):
        answers = []

        async def ask(number):
            data = {"text": f"{number}", "seconds": 0.05}
            ref = await client.submit(PROBE, data, queue=PROBE)
            answers.append((await client.result(ref, timeout=60 * SECOND)).answer)

        for number in range(300):
            tasks.start_soon(ask, number)
        await eventually_async(lambda: len(answers) > 20)
        for target in (1 - owner, owner, 1 - owner):
            await in_thread(nodes.move, SLOT, target)
            done = len(answers)
            await eventually_async(lambda done=done: len(answers) > min(done + 20, 299), within=20)
        await eventually_async(lambda: len(answers) == 300, within=40)
        assert Counter(ledger.began).most_common(1)[0][1] == 1
        assert len(ledger.began) == 300
        assert {outcome for _, outcome in ledger.outcomes} == {Outcome.COMPLETED}
    with nodes.client(nodes.owner(SLOT)) as witness:
        assert witness.zcard(f"{PREFIX}:{PROBE}:completed") == 300
        assert witness.info("stats")["total_connections_received"] < 1000


async def test_a_slot_that_moves_key_by_key_is_waited_for(nodes, owner):
    """The old way: for a while the node answers ASK and TRYAGAIN, then MOVED."""
    ledger = Ledger()
    source, target = owner, 1 - owner
    async with (
        running(nodes.url, probe(ledger), TAGGED),
        open_client(nodes.url, prefix=PREFIX, patience=20 * SECOND) as client,
    ):
        first = await client.submit(PROBE, {"seconds": 1, "text": "first"}, queue=PROBE)
        await eventually_async(lambda: ledger.began)
        with nodes.client(source) as old, nodes.client(target) as new:
            new.execute_command("CLUSTER", "SETSLOT", SLOT, "IMPORTING", nodes.name(source))
            old.execute_command("CLUSTER", "SETSLOT", SLOT, "MIGRATING", nodes.name(target))
            connections = old.info("stats")["total_connections_received"]
            await anyio.sleep(1.5)  # the job ends, and the claimer looks for others
            assert old.info("stats")["total_connections_received"] - connections < 100
            keys = old.execute_command("CLUSTER", "GETKEYSINSLOT", SLOT, 1000)
            port = nodes.servers[target].port
            old.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
            nodes.set_owner(SLOT, target)
        second = await client.submit(PROBE, {"text": "second"}, queue=PROBE)
        for ref, answer in ((first, "first"), (second, "second")):
            assert (await client.result(ref, timeout=20 * SECOND)).answer == answer
        assert ledger.began == [first.id, second.id]


async def test_a_stream_goes_on_where_it_was(nodes, owner):
    key = f"{PREFIX}:s"
    async with (
        open_link(connector(nodes), options=FAST) as link,
        Redis(link).stream(key, after="0", block=2) as entries,
        anyio.create_task_group() as tasks,
    ):
        seen = []

        async def read():
            while True:
                seen.append((await anext(entries)).id)

        tasks.start_soon(read)
        await link.call("XADD", key, "1-1", "n", 1)
        await eventually_async(lambda: seen)
        await in_thread(nodes.move, SLOT, 1 - owner)
        await link.call("XADD", key, "2-1", "n", 2)
        await eventually_async(lambda: len(seen) == 2)
        assert seen == [b"1-1", b"2-1"]
        tasks.cancel_scope.cancel()


async def test_the_synchronous_client_follows(nodes, owner):
    def use():
        with SyncClient(nodes.url, prefix=PREFIX) as client:
            first = client.submit(PROBE, {}, queue=PROBE)
            nodes.move(SLOT, 1 - owner)
            second = client.submit(PROBE, {}, queue=PROBE)
            assert client.get(first) is not None
            assert client.get(second) is not None

    await in_thread(use)


async def test_the_owner_dies_and_its_replica_takes_over(free_tcp_port_factory):
    with cluster(free_tcp_port_factory, nodes=3, replica_of_slot=SLOT) as nodes:
        ledger = Ledger()
        async with (
            running(nodes.url, probe(ledger), TAGGED),
            open_client(nodes.url, prefix=PREFIX, patience=30 * SECOND) as client,
        ):
            refs = [
                await client.submit(PROBE, {"seconds": 2, "text": f"{n}"}, queue=PROBE)
                for n in range(6)
            ]
            await eventually_async(lambda: len(ledger.began) == 4)
            dying = nodes.owner(SLOT)
            with nodes.client(dying) as witness:
                assert witness.wait(1, 5000) == 1
            nodes.servers[dying].kill()
            for number, ref in enumerate(refs):
                assert (await client.result(ref, timeout=60 * SECOND)).answer == f"{number}"
            assert Counter(ledger.began) == Counter({ref.id: 1 for ref in refs})


# What is refused, and in which words


def test_a_prefix_without_a_hash_tag_is_refused_at_the_start(nodes):
    with pytest.raises(ConfigError) as caught:
        build_worker(settings_for(nodes.url), [probe()])
    assert str(caught.value).startswith("queue.prefix: a Cluster spreads the keys of 'bull'")
    assert "write '{bull}', here and as the prefix of every Queue" in str(caught.value)
    with pytest.raises(ConfigError, match=r"write '\{bull\}'"):
        SyncClient(nodes.url)
    done = CliRunner().invoke(main, ["queue", "stats", "--redis-url", nodes.url])
    assert done.exit_code == 2
    assert "write '{bull}'" in done.stderr


async def test_the_async_client_refuses_it_too(nodes):
    with pytest.raises(ConfigError, match=r"write '\{bull\}'"):
        async with open_client(nodes.url):
            pass


@pytest.mark.parametrize("index", [0, 1])
async def test_so_is_a_cluster_behind_a_plain_url(nodes, index):
    url = plain(nodes, index)
    worker = build_worker(settings_for(url), [probe()])
    with anyio.fail_after(5), pytest.raises(RedisUnavailable) as caught:
        await worker.run()
    said = str(caught.value)
    assert f"{url}/0 cannot be used: a Cluster spreads the keys of 'bull'" in said
    assert "write '{bull}'" in said
    assert "begin the URL with redis+cluster" in said
    with anyio.fail_after(5), pytest.raises(RedisUnavailable, match=r"write '\{bull\}'"):
        async with open_client(url):
            pass

    def enter():
        with pytest.raises(RedisUnavailable, match=r"write '\{bull\}'"), SyncClient(url):
            pass

    with anyio.fail_after(5):
        await in_thread(enter)


def test_the_process_says_so_and_ends(nodes, start_process):
    process = start_process(
        *("--plugins", "echo", "--engine", "none"), environment={"REDIS_URL": plain(nodes, 0)}
    )
    assert process.wait(within=15) == 1
    *_, last = process.log.splitlines()
    assert "write '{bull}'" in json.loads(last)["reason"]
    assert "Traceback" not in process.log


async def test_a_plain_url_to_a_node_that_owns_the_slot_works_and_to_another_says_what_to_write(
    nodes, owner
):
    async with running(plain(nodes, owner), probe(), TAGGED):
        pass
    worker = build_worker(settings_for(plain(nodes, 1 - owner), prefix=PREFIX), [probe()])
    with anyio.fail_after(5), pytest.raises(RedisUnavailable) as caught:
        await worker.run()
    assert "not the one that owns the queues' prefix (MOVED" in str(caught.value)
    assert "begin the URL with redis+cluster" in str(caught.value)


async def test_a_plugin_s_key_of_another_slot_is_its_own_fault_and_nobody_else_s(nodes, owner):
    foreign = next(f"k{n}" for n in range(1000) if nodes.owner(prefix_slot(f"{{k{n}}}")) != owner)
    async with open_link(connector(nodes), options=FAST) as link:
        with anyio.fail_after(5), pytest.raises(ReplyError, match="not in the slot") as caught:
            await link.call("GET", f"{{{foreign}}}")
        assert "MOVED" in str(caught.value)
        assert link.is_connected
        assert link.reconnects == 0


async def test_nodes_that_are_gone_are_passed_over(nodes, free_tcp_port):
    url = f"redis+cluster://127.0.0.1:{free_tcp_port},{nodes.url.rpartition('/')[2]}"
    endpoint = Endpoint.from_url(url)
    async with linked(connector_to(endpoint, prefix=PREFIX)) as link:
        assert await link.call("GET", f"{PREFIX}:x") is None
    await in_thread(lambda: SyncClient(endpoint, prefix=PREFIX).__enter__().close())


async def test_a_cluster_that_answers_nowhere_is_named_node_by_node(free_tcp_port):
    endpoint = Endpoint.from_url(f"redis+cluster://127.0.0.1:{free_tcp_port}")
    async with linked(connector_to(endpoint, prefix=PREFIX)) as link:
        with pytest.raises(RedisUnavailable) as caught:
            await link.wait_connected(within=0.3)
    assert f"no node tells who owns slot {SLOT}" in str(caught.value)
    assert f"127.0.0.1:{free_tcp_port}: " in str(caught.value)


def test_a_server_that_is_no_cluster(valkey):
    endpoint = Endpoint.from_url(valkey.url.replace("redis:", "redis+cluster:"))
    with pytest.raises(RedisUnavailable, match="cluster support disabled"):
        SyncClient(endpoint, prefix=PREFIX, patience=0 * SECOND).__enter__()

"""Sentinel: a worker, its clients and its streams follow the primary."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import anyio
import anyio.to_thread
import pytest
import redis
import trustme
from click.testing import CliRunner

from tests.integration.link_support import FAST, linked, until
from tests.integration.support import PROBE, Ledger, probe, running
from tests.integration.topology_support import SERVICE, server_context, tls_proxy, watched
from worker_core import Outcome
from worker_core.cli import main
from worker_core.client import SyncClient, open_client
from worker_core.errors import RedisUnavailable, ReplyLost
from worker_core.redis import Endpoint, Login, Redis, TLSFiles, open_link
from worker_core.testing.polling import eventually, eventually_async

SECOND = timedelta(seconds=1)


@pytest.fixture
def group(free_tcp_port_factory, tmp_path):
    with watched(free_tcp_port_factory, tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def calm(free_tcp_port_factory, tmp_path_factory):
    """The same for tests that leave it as it is."""
    with watched(free_tcp_port_factory, tmp_path_factory.mktemp("sentinel")) as started:
        yield started


def replicate(group):
    """Wait until the replica has all that the primary has."""
    with group.witness() as client:
        assert client.wait(1, 5000) == 1


async def fail_over(group, *, by_killing):
    """Make the replica the primary, and return the port of the one before."""
    before = group.primary_port()
    if by_killing:
        group.primary().kill()
    else:
        with group.sentinel() as client:
            client.execute_command("SENTINEL", "FAILOVER", SERVICE)
    await anyio.to_thread.run_sync(
        lambda: eventually(lambda: group.primary_port() != before, within=30)
    )
    return before


@pytest.mark.parametrize("by_killing", [True, False], ids=["killed", "told to"])
async def test_a_worker_and_its_clients_go_on_after_a_failover(group, by_killing):
    ledger = Ledger()
    settings = {"worker": {"concurrency": 2}}
    async with (
        running(group.url, probe(ledger), settings),
        open_client(group.url, patience=20 * SECOND, poll=60 * SECOND) as client,
        anyio.create_task_group() as tasks,
    ):
        refs = [
            await client.submit(PROBE, {"seconds": 4 if n < 2 else 0, "text": f"{n}"}, queue=PROBE)
            for n in range(12)
        ]
        await eventually_async(lambda: len(ledger.began) == 2)
        answers = []

        async def wait_for(ref):
            answers.append((await client.result(ref, timeout=60 * SECOND)).answer)

        for ref in refs:
            tasks.start_soon(wait_for, ref)
        replicate(group)
        old = await fail_over(group, by_killing=by_killing)
        await eventually_async(lambda: len(answers) == 12, within=30)
        assert sorted(answers) == sorted(f"{n}" for n in range(12))
        assert Counter(ledger.began) == Counter({ref.id: 1 for ref in refs})
        assert {outcome for _, outcome in ledger.outcomes} == {Outcome.COMPLETED}
        with group.witness() as witness:
            assert witness.connection_pool.connection_kwargs["port"] != old
            assert witness.zcard(f"bull:{PROBE}:completed") == 12
            # A loop without pauses would make thousands.
            assert witness.info("stats")["total_connections_received"] < 200
        with group.sentinel() as sentinel:
            assert sentinel.info("stats")["total_connections_received"] < 400


async def test_a_primary_that_turns_read_only_is_left_without_a_busy_loop(group):
    """As when a Sentinel's word comes late: what it names is a replica by now."""
    first, second = group.servers
    with group.sentinel() as sentinel, redis.Redis(port=first.port) as server:
        # Nobody may put it right meanwhile.
        sentinel.execute_command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", 60_000)
        async with linked(Endpoint.from_url(group.url)) as link:
            await link.call("SET", "before", 1)
            pause = server.client_pause(10_000, all=False)
            assert pause
            server.replicaof("127.0.0.1", second.port)
            server.client_unpause()
            before = server.info("stats")["total_connections_received"]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(link.call, "SET", "after", 2)
                await anyio.sleep(1.5)
                assert not link.is_connected
                # The pause between attempts is 50 ms on average here.
                attempts = server.info("stats")["total_connections_received"] - before
                assert 3 < attempts < 100
                server.replicaof("NO", "ONE")
            assert await link.call("GET", "after") == b"2"


async def test_a_stream_goes_on_where_it_was(group):
    async with (
        linked(Endpoint.from_url(group.url)) as link,
        Redis(link).stream("s", after="0", block=0.5) as entries,
    ):
        await link.call("XADD", "s", "1-1", "n", 1)
        assert (await anext(entries)).id == b"1-1"
        replicate(group)
        await fail_over(group, by_killing=True)
        await link.call("XADD", "s", "2-1", "n", 2)
        assert (await anext(entries)).id == b"2-1"


def test_the_synchronous_client_follows_in_every_thread(group):
    with SyncClient(group.url, patience=30 * SECOND) as client:
        seen, stop = [], threading.Event()

        def submit():
            while not stop.is_set():
                with suppress(ReplyLost):
                    seen.append(client.submit(PROBE, {}, queue=PROBE).id)
                stop.wait(0.01)

        threads = [threading.Thread(target=submit) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: len(seen) > 20)
            old = group.primary_port()
            with group.sentinel() as sentinel:
                sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)
            eventually(lambda: group.primary_port() != old, within=30)
            # The one before takes jobs until it is told; those are lost, whoever adds them.
            with group.witness() as witness:
                # Within less time than that.
                eventually(lambda: witness.exists(f"bull:{PROBE}:{seen[-1]}"), within=5)
                after = len(seen)
                eventually(lambda: len(seen) > after + 20, within=30)
                assert all(witness.exists(f"bull:{PROBE}:{one}") for one in seen[after:])
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_process_is_told_by_the_environment(calm, start_process):
    process = start_process(
        *("--plugins", "echo", "--engine", "none"), environment={"REDIS_URL": calm.url}
    )
    process.wait_ready()
    with SyncClient(calm.url) as client:
        ref = client.submit("echo", {"text": "here"}, queue="echo")
        assert client.result(ref, timeout=10 * SECOND).answer is not None
    process.signal(signal.SIGTERM)
    assert process.wait(within=15) == 0


def test_the_command_line_asks_the_sentinels(calm):
    with SyncClient(calm.url) as client:
        client.submit(PROBE, {}, queue=PROBE)
    done = CliRunner().invoke(main, ["queue", "stats", "--json", "--redis-url", calm.url])
    assert done.exit_code == 0, done.output
    assert '"waiting": 1' in done.stdout


# Whom to ask, and what is said when nobody knows


async def reason(endpoint):
    states = []
    async with open_link(endpoint, options=FAST, on_state=states.append):
        await until(lambda: states)
    return states[0].reason


async def reason_of_client(endpoint):
    def enter():
        with pytest.raises(RedisUnavailable) as caught, SyncClient(endpoint, patience=0 * SECOND):
            pass
        return str(caught.value)

    return await anyio.to_thread.run_sync(enter)


ASK = pytest.mark.parametrize("ask", [reason, reason_of_client], ids=["link", "sync"])


@ASK
async def test_sentinels_that_do_not_help_are_named(ask, calm, free_tcp_port):
    url = f"redis+sentinel://127.0.0.1:{free_tcp_port},127.0.0.1:{calm.sentinels[0]}/other"
    said = await ask(Endpoint.from_url(url))
    assert "no Sentinel tells where the primary of 'other' is" in said
    assert f"127.0.0.1:{free_tcp_port}: " in said
    assert "refused" in said.lower()
    assert f"127.0.0.1:{calm.sentinels[0]} does not watch over 'other'" in said


async def test_a_sentinel_that_is_gone_is_passed_over(calm, free_tcp_port):
    url = f"redis+sentinel://127.0.0.1:{free_tcp_port},127.0.0.1:{calm.sentinels[0]}/{SERVICE}"
    async with linked(Endpoint.from_url(url)) as link:
        assert await link.call("PING") == b"PONG"
    await anyio.to_thread.run_sync(lambda: SyncClient(url).__enter__().close())


@ASK
async def test_sentinels_have_a_login_of_their_own(ask, group):
    with group.sentinel() as sentinel:
        sentinel.execute_command("ACL", "SETUSER", "asker", "on", ">sesame", "+@all", "allchannels")
        sentinel.execute_command("ACL", "SETUSER", "default", "off")
    said = await ask(Endpoint.from_url(group.url, password="for the servers only"))
    assert "check redis.sentinel_username and redis.sentinel_password" in said
    login = Login(username="asker", password="sesame")
    async with linked(Endpoint.from_url(group.url, sentinel=login)) as link:
        assert await link.call("PING") == b"PONG"


@ASK
async def test_a_replica_that_a_sentinel_takes_for_the_primary_is_refused(ask, group):
    first, second = group.servers
    with group.sentinel() as sentinel, redis.Redis(port=first.port) as server:
        sentinel.execute_command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", 60_000)
        server.replicaof("127.0.0.1", second.port)
        assert "the server is a read-only replica" in await ask(Endpoint.from_url(group.url))


@ASK
async def test_a_primary_that_does_not_answer_is_named(ask, group):
    with group.sentinel() as sentinel:
        sentinel.execute_command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", 60_000)
    group.servers[0].kill()
    said = await ask(Endpoint.from_url(group.url))
    assert f"127.0.0.1:{group.servers[0].port}" in said
    assert "refused" in said.lower()


async def test_with_tls_the_sentinels_are_asked_by_it(calm, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = TLSFiles(ca=str(tmp_path / "ca.pem"))
    sentinel_url = f"redis://127.0.0.1:{calm.sentinels[0]}"
    async with tls_proxy(sentinel_url, server_context(authority, "localhost")) as port:
        said = await reason(
            Endpoint.from_url(f"rediss+sentinel://localhost:{port}/{SERVICE}", tls=files)
        )
    # The question was answered; it is the primary itself that speaks none.
    assert "no Sentinel" not in said
    assert "does not speak TLS" in said

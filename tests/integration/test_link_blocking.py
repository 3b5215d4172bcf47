"""Blocking calls: bounded, forgotten by the server when cancelled, and back after an outage."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from tests.integration.link_support import (
    ValkeyServer,
    endpoint_of,
    linked,
    linked_blocking,
    own_server,
    server,
    shared_server,
    until,
    witness,
)
from worker_core.errors import RedisError, RedisUnavailable, ReplyError, ReplyLost
from worker_core.redis import Endpoint, Redis
from worker_core.testing.proxy import open_chaos_proxy

__all__ = ["own_server", "server", "shared_server"]


def blocked_clients(valkey: ValkeyServer) -> list[str]:
    """The names of the clients that the server holds in a blocking call."""
    with witness(valkey) as client:
        return [info["name"] for info in client.client_list() if "b" in info["flags"]]


async def test_it_blocks_and_returns_what_arrives(server: ValkeyServer) -> None:
    async with linked_blocking(endpoint_of(server), name="waiter") as blocking:
        assert await blocking.call("BZPOPMIN", "marker", 0.05, within=1.0) is None
        replies: list[object] = []

        async def wait() -> None:
            replies.append(await blocking.call("BZPOPMIN", "marker", 5, within=6.0))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await until(lambda: blocked_clients(server) == ["waiter"])
            with witness(server) as client:
                client.zadd("marker", {"0": 1})
        assert replies == [[b"marker", b"0", b"1"]]


async def test_cancelling_makes_the_server_forget_the_client(server: ValkeyServer) -> None:
    async with linked_blocking(endpoint_of(server), name="waiter") as blocking:
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                await blocking.call("BZPOPMIN", "marker", 30, within=31.0)

            tasks.start_soon(wait)
            await until(lambda: blocked_clients(server) == ["waiter"])
            tasks.cancel_scope.cancel()
        assert not blocking.is_connected
        await until(lambda: blocked_clients(server) == [], within=1.0)
        with witness(server) as client:
            client.zadd("marker", {"0": 1})
            assert client.zcard("marker") == 1  # nobody took it away
        assert await blocking.call("BZPOPMIN", "marker", 1, within=2.0) == [b"marker", b"0", b"1"]
        with witness(server) as client:
            assert [info["name"] for info in client.client_list()].count("waiter") == 1


async def test_a_frozen_server_is_noticed(own_server: ValkeyServer) -> None:
    process = own_server._process
    assert process is not None
    async with linked_blocking(endpoint_of(own_server)) as blocking:
        await blocking.call("PING", within=1.0)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with anyio.fail_after(3), pytest.raises(ReplyLost, match=r"no reply within 0\.3 s"):
                await blocking.call("BZPOPMIN", "marker", 0.1, within=0.3)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert await blocking.call("PING", within=2.0) == b"PONG"


@pytest.mark.parametrize("reset", [True, False])
async def test_a_lost_connection_is_told_at_once(server: ValkeyServer, reset: bool) -> None:
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked_blocking(Endpoint(host=proxy.host, port=proxy.port), name="waiter") as blocking,
    ):

        async def cut() -> None:
            await until(lambda: blocked_clients(server) == ["waiter"])
            proxy.cut(reset=reset)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cut)
            with anyio.fail_after(3), pytest.raises(ReplyLost):
                await blocking.call("BZPOPMIN", "marker", 30, within=31.0)
        assert await blocking.call("PING", within=1.0) == b"PONG"


async def test_a_caller_that_just_calls_again_outlives_a_restart(own_server: ValkeyServer) -> None:
    errors: list[type[RedisError]] = []
    async with linked_blocking(endpoint_of(own_server)) as blocking:

        async def restart() -> None:
            await until(lambda: blocking.is_connected)
            own_server.stop()
            # Away for longer than the block time.
            await until(lambda: errors.count(RedisUnavailable) >= 5)
            own_server.start()
            with witness(own_server) as client:
                client.zadd("marker", {"0": 1})

        async def wait_for_marker() -> object:
            while True:
                try:
                    if reply := await blocking.call("BZPOPMIN", "marker", 0.05, within=0.5):
                        return reply
                except RedisError as error:
                    errors.append(type(error))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(restart)
                assert await wait_for_marker() == [b"marker", b"0", b"1"]
    assert len(errors) < 200  # each one after a wait


async def test_readonly_ends_the_blocking_call_until_the_promotion(
    own_server: ValkeyServer,
) -> None:
    async with linked_blocking(endpoint_of(own_server), name="waiter") as blocking:

        async def demote() -> None:
            await until(lambda: blocked_clients(own_server) == ["waiter"])
            with witness(own_server) as client:
                client.replicaof("127.0.0.1", "1")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(demote)
            with anyio.fail_after(5), pytest.raises(RedisUnavailable, match="refuses to serve"):
                await blocking.call("BZPOPMIN", "marker", 30, within=31.0)
        for _ in range(3):
            with pytest.raises(RedisUnavailable, match="read-only replica"):
                await blocking.call("BZPOPMIN", "marker", 30, within=31.0)
        with witness(own_server) as client:
            client.replicaof("NO", "ONE")
        assert await blocking.call("BZPOPMIN", "marker", 0.01, within=1.0) is None


async def test_error_replies_keep_the_connection(server: ValkeyServer) -> None:
    with witness(server) as client:
        client.set("text", "x")
    async with linked_blocking(endpoint_of(server)) as blocking:
        with pytest.raises(ReplyError, match="WRONGTYPE"):
            await blocking.call("BZPOPMIN", "text", 1, within=2.0)
        assert blocking.is_connected


async def test_one_call_at_a_time(server: ValkeyServer) -> None:
    async with (
        linked_blocking(endpoint_of(server), name="waiter") as blocking,
        anyio.create_task_group() as tasks,
    ):

        async def wait() -> None:
            await blocking.call("BZPOPMIN", "marker", 30, within=31.0)

        tasks.start_soon(wait)
        await until(lambda: blocked_clients(server) == ["waiter"])
        with pytest.raises(anyio.BusyResourceError):
            await blocking.call("PING", within=1.0)
        tasks.cancel_scope.cancel()


async def test_a_stream_is_followed_across_a_cut(server: ValkeyServer) -> None:
    with witness(server) as client:
        client.xadd("events", {"n": "before"})
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked(Endpoint(host=proxy.host, port=proxy.port)) as link,
        Redis(link).stream("events", block=0.2) as entries,
    ):
        seen: list[dict[bytes, bytes]] = []

        async def follow() -> None:
            async for entry in entries:
                seen.append(entry.fields)
                if len(seen) == 300:
                    return

        async def reach(count: int) -> None:
            await until(lambda: len(seen) == count)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                with witness(server) as client:
                    for part in range(3):
                        for number in range(100):
                            client.xadd("events", {"n": str(part * 100 + number)})
                        await reach((part + 1) * 100)
                        proxy.cut()
    assert seen == [{b"n": str(number).encode()} for number in range(300)]


async def test_a_stream_from_a_given_place_and_of_the_wrong_kind(server: ValkeyServer) -> None:
    with witness(server) as client:
        first = client.xadd("events", {"n": "1", "": "empty name"})
        client.xadd("events", {"n": "2"})
        client.set("text", "x")
    async with linked(endpoint_of(server)) as link:
        api = Redis(link)
        async with api.stream("events", after=first) as entries:
            assert (await anext(entries)).fields == {b"n": b"2"}
        async with api.stream("events", after="0") as entries:
            assert (await anext(entries)).fields == {b"n": b"1", b"": b"empty name"}
        with pytest.raises(ReplyError, match="WRONGTYPE"):
            async with api.stream("text", after="0") as entries:
                await anext(entries)


async def test_a_stream_s_patience_ends(server: ValkeyServer) -> None:
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked(Endpoint(host=proxy.host, port=proxy.port)) as link,
        Redis(link).stream("events", block=0.05, patience=0.3) as entries,
    ):
        proxy.refusing = True
        proxy.cut()
        with anyio.fail_after(8), pytest.raises(RedisUnavailable, match=r"for 0\.3 s"):
            await anext(entries)
        proxy.refusing = False
        with witness(server) as client:
            client.xadd("events", {"n": "1"})
        with anyio.fail_after(8):
            assert (await anext(entries)).fields == {b"n": b"1"}

"""Servers that fall silent, links that end with callers waiting, and the bounds of the queue."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest

from tests.integration.link_support import (
    FAST,
    ValkeyServer,
    endpoint_of,
    linked,
    own_server,
    server,
    shared_server,
    until,
    witness,
)
from worker_core.errors import LinkClosed, RedisError, RedisUnavailable, ReplyLost
from worker_core.redis import Endpoint
from worker_core.testing.proxy import open_chaos_proxy

if TYPE_CHECKING:
    from worker_core.redis import Link

__all__ = ["own_server", "server", "shared_server"]


async def test_a_frozen_server_is_noticed_within_the_reply_timeout(
    own_server: ValkeyServer,
) -> None:
    process = own_server._process
    assert process is not None
    async with linked(endpoint_of(own_server)) as link:
        await link.call("PING")
        os.kill(process.pid, signal.SIGSTOP)
        try:
            began = anyio.current_time()
            with anyio.fail_after(3), pytest.raises(ReplyLost, match="no reply within 1 s"):
                await link.call("INCR", "n")
            assert 0.9 < anyio.current_time() - began < 2.5
            with pytest.raises(RedisUnavailable):
                await link.wait_connected(within=0.2)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        await link.wait_connected(within=3)
        # The frozen server read the lost call from its socket once it went on.
        assert await link.call("INCR", "n") in (1, 2)


async def test_steady_traffic_does_not_hide_a_silent_server(server: ValkeyServer) -> None:
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked(Endpoint(host=proxy.host, port=proxy.port)) as link,
    ):
        await link.wait_connected(within=2)
        proxy.blackhole()
        began = anyio.current_time()
        while link.is_connected:
            link.post("INCR", "n")
            assert anyio.current_time() - began < 2.5
            await anyio.sleep(0.01)
        assert anyio.current_time() - began > 0.9


async def test_a_dead_peer_of_an_idle_link_is_noticed(server: ValkeyServer) -> None:
    options = attrs.evolve(FAST, ping_interval=0.1, reply_timeout=0.3)
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked(Endpoint(host=proxy.host, port=proxy.port), options=options) as link,
    ):
        await link.wait_connected(within=2)
        quiet = proxy.forwarded
        await until(lambda: proxy.forwarded > quiet)
        proxy.blackhole()
        await until(lambda: not link.is_connected, within=1.0)
        assert link.reconnects == 0


async def test_a_slow_link_is_not_a_dead_one(server: ValkeyServer) -> None:
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked(Endpoint(host=proxy.host, port=proxy.port)) as link,
    ):
        await link.wait_connected(within=2)
        proxy.delay = 0.15
        replies: list[object] = []

        async def echo(number: int) -> None:
            replies.append(await link.call("ECHO", f"{number}" * 1000))

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                for _ in range(10):
                    tasks.start_soon(echo, number)
                await anyio.sleep(0.05)
        assert len(replies) == 50
        assert link.reconnects == 0


async def outcome_of(link: Link, outcomes: list[object], *args: str) -> None:
    try:
        outcomes.append(await link.call(*args))
    except RedisError as error:
        outcomes.append(type(error))


async def test_closing_with_callers_waiting(server: ValkeyServer) -> None:
    sent: list[object] = []
    unsent: list[object] = []
    options = attrs.evolve(FAST, reply_timeout=30.0)
    async with open_chaos_proxy(server.host, server.port) as proxy:
        endpoint = Endpoint(host=proxy.host, port=proxy.port)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                async with linked(endpoint, options=options) as link:
                    await link.wait_connected(within=2)
                    proxy.blackhole()
                    # More than the sockets between here and there hold, so that the writer stands
                    # still in the middle of a send and the rest is never handed to it.
                    tasks.start_soon(outcome_of, link, sent, "ECHO", "x" * 64_000_000)
                    await until(lambda: link.in_flight == 1)
                    tasks.start_soon(outcome_of, link, unsent, "INCR", "n")
                    await until(lambda: link.queued == 1)
                    began = anyio.current_time()
                assert anyio.current_time() - began < FAST.close_timeout + 2.0
        assert sent == [ReplyLost]
        assert unsent == [LinkClosed]
    with witness(server) as client:
        assert client.get("n") is None


async def test_closing_while_the_server_is_away(free_tcp_port: int) -> None:
    outcomes: list[object] = []
    endpoint = Endpoint(host="127.0.0.1", port=free_tcp_port)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            async with linked(endpoint) as link:
                tasks.start_soon(outcome_of, link, outcomes, "PING")
                await until(lambda: link.queued == 1)
                began = anyio.current_time()
            assert anyio.current_time() - began < FAST.close_timeout + 2.0
    assert outcomes == [LinkClosed]


async def test_what_was_posted_last_is_still_sent(server: ValkeyServer) -> None:
    async with linked(endpoint_of(server)) as link:
        await link.wait_connected(within=2)
        for _ in range(1000):
            link.post("INCR", "n")
    with witness(server) as client:
        assert client.get("n") == b"1000"


@pytest.mark.parametrize(
    ("bound", "args"),
    [("max_queued_calls", ("PING",)), ("max_queued_bytes", ("ECHO", "x" * 2000))],
)
async def test_the_queue_is_bounded(free_tcp_port: int, bound: str, args: tuple[str, ...]) -> None:
    options = attrs.evolve(FAST, max_queued_calls=10, max_queued_bytes=10_000, close_timeout=0)
    endpoint = Endpoint(host="127.0.0.1", port=free_tcp_port)
    async with linked(endpoint, options=options) as link:
        for _ in range(20):
            link.post(*args)
        with pytest.raises(RedisUnavailable, match=bound):
            await link.call(*args)
        assert 4 <= link.queued <= 10


async def test_a_call_larger_than_the_queue_goes_through_when_it_is_empty(
    server: ValkeyServer,
) -> None:
    options = attrs.evolve(FAST, max_queued_bytes=10_000)
    async with linked(endpoint_of(server), options=options) as link:
        assert await link.call("ECHO", "x" * 1_000_000) == b"x" * 1_000_000

"""Channels: heard on a connection of their own that comes back by itself."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs

from tests.integration.link_support import (
    FAST,
    ValkeyServer,
    endpoint_of,
    own_server,
    server,
    shared_server,
    until,
    witness,
)
from worker_core.redis import Endpoint, LinkOptions, Subscription, connector_to
from worker_core.testing.proxy import open_chaos_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["own_server", "server", "shared_server"]


@attrs.define
class Heard:
    """What a subscription has told."""

    messages: list[tuple[str, bytes]] = attrs.field(factory=list)
    changes: list[bool] = attrs.field(factory=list)


@asynccontextmanager
async def subscribed(
    endpoint: Endpoint, *channels: str, options: LinkOptions = FAST
) -> AsyncIterator[Heard]:
    heard = Heard()
    subscription = Subscription(
        connector_to(endpoint),
        channels,
        on_message=lambda channel, message: heard.messages.append((channel, message)),
        on_change=heard.changes.append,
        options=options,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(subscription.run)
        yield heard
        tasks.cancel_scope.cancel()


async def test_every_channel_is_heard_and_no_other(server: ValkeyServer) -> None:
    async with subscribed(endpoint_of(server), "one", "two") as heard:
        await until(lambda: heard.changes == [True])
        with witness(server) as client:
            client.publish("two", "a")
            client.publish("other", "b")
            client.publish("one", b"\xff")
            await until(lambda: heard.messages == [("two", b"a"), ("one", b"\xff")])
            assert [one["name"] for one in client.client_list() if int(one["sub"])] == [""]
    assert heard.changes == [True]


async def test_the_server_forgets_it_at_the_end(server: ValkeyServer) -> None:
    async with subscribed(endpoint_of(server), "one") as heard:
        await until(lambda: heard.changes == [True])
    with witness(server) as client:
        await until(lambda: client.pubsub_numsub("one") == [(b"one", 0)])


async def test_after_a_loss_it_hears_again_and_says_so(server: ValkeyServer) -> None:
    target = endpoint_of(server)
    assert target.port is not None
    async with (
        open_chaos_proxy("127.0.0.1", target.port) as proxy,
        subscribed(Endpoint(host="127.0.0.1", port=proxy.port), "one") as heard,
    ):
        await until(lambda: heard.changes == [True])
        proxy.refusing = True
        proxy.cut(reset=True)
        await until(lambda: heard.changes == [True, False])
        proxy.refusing = False
        await until(lambda: heard.changes == [True, False, True])
        with witness(server) as client:
            client.publish("one", "a")
        await until(lambda: heard.messages == [("one", b"a")])


async def test_a_frozen_server_is_noticed_and_a_silent_one_is_not_blamed(
    own_server: ValkeyServer,
) -> None:
    process = own_server._process
    assert process is not None
    options = attrs.evolve(FAST, ping_interval=0.05, reply_timeout=0.5)
    async with subscribed(endpoint_of(own_server), "one", options=options) as heard:
        await until(lambda: heard.changes == [True])
        with witness(own_server) as client:

            def pings() -> int:
                stats = client.info("commandstats")
                return int(stats.get("cmdstat_ping", {}).get("calls", 0))

            before = pings()
            await until(lambda: pings() > before + 5)
        assert heard.changes == [True]
        os.kill(process.pid, signal.SIGSTOP)
        try:
            await until(lambda: heard.changes == [True, False])
        finally:
            os.kill(process.pid, signal.SIGCONT)
        await until(lambda: heard.changes == [True, False, True])


async def test_a_refusal_is_told_once_and_not_insisted_on(
    own_server: ValkeyServer, caplog: object
) -> None:
    with witness(own_server) as client:
        client.acl_setuser(
            "deaf", enabled=True, nopass=True, commands=["+@all"], reset_channels=True
        )
        endpoint = attrs.evolve(endpoint_of(own_server), username="deaf", password="x")
        async with subscribed(endpoint, "one") as heard:
            await until(lambda: "channels of" in caplog.text)  # type: ignore[attr-defined]
            refused = len(client.acl_log())
            await anyio.sleep(0.3)  # longer than any pause between attempts after a loss
            assert len(client.acl_log()) == refused
    assert heard.changes == [False]
    assert "NOPERM" in caplog.text  # type: ignore[attr-defined]

"""The async client while the network fails."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from worker_core.client import AddOptions, JobState, open_client
from worker_core.errors import RedisUnavailable, ReplyLost
from worker_core.redis import Endpoint
from worker_core.testing.polling import eventually_async
from worker_core.testing.proxy import open_chaos_proxy

SHORT = timedelta(milliseconds=200)
SOON = timedelta(seconds=10)


def proxied(valkey):
    endpoint = Endpoint.from_url(valkey.url)
    return open_chaos_proxy(endpoint.host, endpoint.port)


def url_of(proxy):
    return f"redis://{proxy.host}:{proxy.port}"


async def test_an_outage_over_the_patience_is_an_error_of_every_method(valkey):
    async with (
        proxied(valkey) as proxy,
        open_client(url_of(proxy), patience=SHORT, poll=SHORT) as client,
    ):
        ref = await client.submit("echo", None, queue="echo")
        proxy.refusing = True
        proxy.cut()
        await eventually_async(lambda: not client._link.is_connected)
        with pytest.raises(RedisUnavailable):
            await client.submit("echo", None, queue="echo")
        with pytest.raises(RedisUnavailable):
            await client.get(ref)
        with pytest.raises(RedisUnavailable):
            await client.result(ref, timeout=SOON)
    assert valkey.client.llen("bull:echo:wait") == 1


async def test_a_wait_that_ends_in_an_outage_says_so(valkey):
    async with proxied(valkey) as proxy, open_client(url_of(proxy)) as client:
        ref = await client.submit("echo", None, queue="echo")
        proxy.refusing = True
        proxy.cut()
        with pytest.raises(RedisUnavailable):
            await client.result(ref, timeout=SHORT)


async def test_a_short_outage_is_waited_out(valkey):
    async with proxied(valkey) as proxy, open_client(url_of(proxy)) as client:
        ref = await client.submit("echo", None, queue="echo")
        proxy.cut()
        assert (await client.get(ref)).state is JobState.WAITING


async def lose_reply(proxy, client, submit):
    """Submit into a connection that is cut before the answer."""
    async with anyio.create_task_group() as tasks:
        proxy.blackhole()
        tasks.start_soon(submit)
        await eventually_async(lambda: client._link.in_flight)
        proxy.cut()
        proxy.restore()


async def test_a_job_whose_reply_was_lost_is_reported_not_sent_again(valkey):
    lost = []
    async with proxied(valkey) as proxy, open_client(url_of(proxy)) as client:

        async def submit():
            try:
                await client.submit("echo", None, queue="echo")
            except ReplyLost as error:
                lost.append(error)

        await lose_reply(proxy, client, submit)
    assert len(lost) == 1


async def test_a_job_with_an_id_of_ones_own_is_sent_again_and_added_once(valkey):
    async with proxied(valkey) as proxy, open_client(url_of(proxy)) as client:

        async def submit():
            await client.submit("echo", None, queue="echo", options=AddOptions(job_id="mine"))

        await lose_reply(proxy, client, submit)
    assert valkey.client.lrange("bull:echo:wait", 0, -1) == [b"mine"]


async def test_a_caller_who_gives_up_leaves_nothing_behind(valkey):
    async with open_client(valkey.url) as client:
        ref = await client.submit("echo", None, queue="echo")
        with anyio.move_on_after(0.05) as scope:
            await client.result(ref, timeout=SOON)
        assert scope.cancelled_caught
        [watch] = client._watches._watches.values()
        assert watch._waiting == {}
        # Nobody is served any more, and in a while the reader will end.
        assert anyio.current_time() < watch._scope.deadline < anyio.current_time() + 60

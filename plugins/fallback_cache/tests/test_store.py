"""The strategy on a real server: what it keeps, for how long, how much; and without one."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest
from structlog.testing import capture_logs
from worker_core_fallback_cache import CacheFallback, FallbackCacheSettings

from worker_core import (
    AskedCall,
    ChatAnswer,
    ChatCall,
    EmbedAnswer,
    EmbedCall,
    FailureClass,
    FallbackAnswer,
    Message,
)
from worker_core.redis import Endpoint, Redis, connector_to, open_link
from worker_core.testing.fallbacks import asked_call, failed_call
from worker_core.testing.polling import eventually_async
from worker_core.testing.proxy import open_chaos_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker_core.testing.fixtures import ValkeyFixture

CHAT = ChatCall(model="llama3", messages=(Message("user", "hi"),), options={"temperature": 0})
ANSWER = ChatAnswer(model="llama3", message=Message("assistant", "hello"))


@pytest.fixture
async def redis(valkey: ValkeyFixture) -> AsyncIterator[Redis]:
    async with open_link(connector_to(Endpoint.from_url(valkey.url), prefix="bull")) as link:
        yield Redis(link)


def cache(**settings: Any) -> CacheFallback:
    return CacheFallback(FallbackCacheSettings(**settings))


async def found(cache: CacheFallback, asked: AskedCall) -> FallbackAnswer | None:
    return await cache.answer(failed_call(asked, FailureClass.CRASHED))


def saying(text: str) -> ChatCall:
    return attrs.evolve(CHAT, messages=(Message("user", text),))


async def test_a_kept_answer_is_given_again_with_its_age(redis: Redis) -> None:
    asked = asked_call(CHAT, tenant="acme", redis=redis)
    assert await found(cache(), asked) is None
    await cache().answered(asked, ANSWER)
    again = await found(cache(), asked)
    assert again is not None
    assert again.answer == ANSWER
    assert list(again.detail) == ["age_seconds"]
    age = again.detail["age_seconds"]
    assert isinstance(age, float)
    assert 0 <= age < 5


async def test_nothing_is_shared_across_tenants(redis: Redis, valkey: ValkeyFixture) -> None:
    for tenant in ("acme", None):
        valkey.client.flushall()
        await cache().answered(asked_call(CHAT, tenant=tenant, redis=redis), ANSWER)
        for other in ("acme", "other", "", None):
            answer = await found(cache(), asked_call(CHAT, tenant=other, redis=redis))
            assert (answer is not None) is (other == tenant)


async def test_keys_begin_with_the_prefix_and_the_namespace(
    redis: Redis, valkey: ValkeyFixture
) -> None:
    await cache(namespace="blue").answered(asked_call(CHAT, redis=redis), ANSWER)
    keys = sorted(valkey.client.keys())
    assert keys[0].startswith(b"bull:cache:blue:-:")
    assert keys[1:] == [b"bull:cache:blue:index"]
    assert await found(cache(namespace="green"), asked_call(CHAT, redis=redis)) is None


async def test_every_key_has_an_end(redis: Redis, valkey: ValkeyFixture) -> None:
    await cache(ttl=timedelta(hours=1)).answered(asked_call(CHAT, redis=redis), ANSWER)
    keys = valkey.client.keys()
    assert len(keys) == 2
    assert all(3_590_000 < valkey.client.pttl(key) <= 3_600_000 for key in keys)


async def test_an_answer_is_not_kept_for_ever(redis: Redis) -> None:
    asked = asked_call(CHAT, redis=redis)
    short = cache(ttl=timedelta(seconds=1))
    await short.answered(asked, ANSWER)
    assert await found(short, asked) is not None

    async def is_gone() -> bool:
        return await found(short, asked) is None

    await eventually_async(is_gone)


@pytest.mark.parametrize("temperature", ["zero", "all"])
async def test_only_requests_at_temperature_zero_unless_all_are_wished_for(
    redis: Redis, temperature: str
) -> None:
    asked = asked_call(attrs.evolve(CHAT, options={"temperature": 0.7}), redis=redis)
    one = cache(temperature=temperature)
    await one.answered(asked, ANSWER)
    assert (await found(one, asked) is not None) is (temperature == "all")


async def test_a_long_answer_is_not_kept(redis: Redis, valkey: ValkeyFixture) -> None:
    long = attrs.evolve(ANSWER, message=Message("assistant", "x" * 1000))
    for limit, kept in ((1000, False), (2000, True)):
        await cache(max_entry_bytes=limit).answered(asked_call(CHAT, redis=redis), long)
        assert bool(valkey.client.keys()) is kept


async def test_those_used_least_lately_go(redis: Redis, valkey: ValkeyFixture) -> None:
    small = cache(max_entries=3)
    calls = [asked_call(saying(str(number)), redis=redis) for number in range(4)]

    async def a_moment_passes() -> None:
        # The server orders by milliseconds; the clock is the worker's own.
        now = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == now:
            await anyio.sleep(0.001)

    for asked in calls[:3]:
        await small.answered(asked, ANSWER)
        await a_moment_passes()
    assert await found(small, calls[0]) is not None
    await a_moment_passes()
    await small.answered(calls[3], ANSWER)
    there = [await found(small, asked) is not None for asked in calls]
    assert there == [True, False, True, True]
    assert len(valkey.client.keys()) == 4


async def test_a_lower_limit_is_kept_to_from_the_next_answer_on(
    redis: Redis, valkey: ValkeyFixture
) -> None:
    for number in range(20):
        await cache().answered(asked_call(saying(str(number)), redis=redis), ANSWER)
    await cache(max_entries=5).answered(asked_call(CHAT, redis=redis), ANSWER)
    assert valkey.client.zcard("bull:cache:default:index") == 5
    assert len(valkey.client.keys()) == 6


async def test_the_index_forgets_what_has_run_out(redis: Redis, valkey: ValkeyFixture) -> None:
    valkey.client.zadd("bull:cache:default:index", {"-:old": 1})
    await cache().answered(asked_call(CHAT, redis=redis), ANSWER)
    assert valkey.client.zcard("bull:cache:default:index") == 1


async def test_what_another_version_wrote_is_no_answer(redis: Redis, valkey: ValkeyFixture) -> None:
    asked = asked_call(CHAT, redis=redis)
    await cache().answered(asked, ANSWER)
    [key] = valkey.client.keys("bull:cache:default:-:*")
    valkey.client.set(key, b'{"form": 2}')
    assert await found(cache(), asked) is None


async def test_embeddings_are_left_alone(redis: Redis, valkey: ValkeyFixture) -> None:
    asked = asked_call(EmbedCall(model="nomic", input=("a", "b")), redis=redis)
    await cache(temperature="all").answered(asked, EmbedAnswer(model="nomic", embeddings=((1.0,),)))
    assert await found(cache(temperature="all"), asked) is None
    assert valkey.client.keys() == []


@pytest.mark.parametrize("mode", ["fallback", "always"])
async def test_it_answers_first_only_where_that_is_wished_for(redis: Redis, mode: str) -> None:
    asked = asked_call(CHAT, redis=redis)
    one = cache(mode=mode)
    await one.answered(asked, ANSWER)
    assert (await one.before(asked) is not None) is (mode == "always")


@pytest.mark.parametrize("failure", list(FailureClass))
def test_what_it_answers(failure: FailureClass) -> None:
    no = {FailureClass.BAD_INPUT, FailureClass.UNSUPPORTED}
    assert (failure in cache().handles) is (failure not in no)


async def test_a_cache_that_is_down_holds_nobody_up_and_says_so_once(
    valkey: ValkeyFixture,
) -> None:
    one = cache(mode="always")
    server = Endpoint.from_url(valkey.url).address
    async with open_chaos_proxy(server.host, server.port) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with open_link(connector_to(Endpoint.from_url(url), prefix="bull")) as link:
            asked = asked_call(CHAT, redis=Redis(link))
            await one.answered(asked, ANSWER)
            proxy.blackhole()
            with capture_logs() as logs:
                for _ in range(2):
                    began = anyio.current_time()
                    assert await one.before(asked) is None
                    assert await found(one, asked) is None
                    await one.answered(asked, ANSWER)
                    assert anyio.current_time() - began < 3 * 0.25
            assert [entry["event"] for entry in logs] == [
                "the cache cannot be asked; jobs go on without it"
            ]
            proxy.restore()

            async def is_back() -> bool:
                return await one.before(asked) is not None

            with capture_logs() as logs:
                await eventually_async(is_back)
            assert [entry["event"] for entry in logs] == ["the cache is back"]


async def test_a_server_that_refuses_is_a_cache_that_is_down(
    redis: Redis, valkey: ValkeyFixture
) -> None:
    asked = asked_call(CHAT, redis=redis)
    valkey.client.set("bull:cache:default:index", "not a sorted set")
    with capture_logs() as logs:
        await cache().answered(asked, ANSWER)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert "WRONGTYPE" in logs[0]["reason"]

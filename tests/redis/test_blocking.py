"""The waits of a link for blocking calls, on a virtual clock."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio

from tests.redis.memory_server import memory_server
from worker_core.errors import RedisUnavailable, ReplyLost
from worker_core.redis import Backoff, LinkOptions, open_blocking_link

if TYPE_CHECKING:
    from trio.testing import MockClock

OPTIONS = LinkOptions(backoff=Backoff(initial=1.0, factor=2.0, maximum=64.0))


async def test_repeated_failures_wait_longer(autojump_clock: MockClock) -> None:
    async with memory_server() as server, open_blocking_link(server, options=OPTIONS) as blocking:
        server.reachable = False
        for _ in range(40):
            with pytest.raises(RedisUnavailable, match=r"redis://memory.*nobody is there"):
                await blocking.call("X", within=1.0)
        waits = [b - a for a, b in pairwise(server.dials)]
        assert all(wait <= min(2.0 ** (number + 1), 64) + 0.01 for number, wait in enumerate(waits))
        assert 20 < sum(waits[6:]) / len(waits[6:]) < 44  # half of the maximum
        server.reachable = True
        assert await blocking.call("X", within=1.0) == b"X"
        # And that call has ended the row: the next failure begins a new one.
        await server.cut()
        with pytest.raises(ReplyLost):
            await blocking.call("X", within=1.0)
        began = trio.current_time()
        assert await blocking.call("X", within=1.0) == b"X"
        assert trio.current_time() - began <= 2.01


async def test_the_bound_of_a_call_is_its_own(autojump_clock: MockClock) -> None:
    async with memory_server() as server, open_blocking_link(server, options=OPTIONS) as blocking:
        await blocking.call("X", within=1.0)
        server.silent = True
        began = trio.current_time()
        with pytest.raises(ReplyLost, match="no reply within 90 s"):
            await blocking.call("X", within=90.0)
        assert trio.current_time() - began == pytest.approx(90.0, abs=0.1)
        assert not blocking.is_connected

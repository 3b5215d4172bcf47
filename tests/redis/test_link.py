"""The link against a server in memory, on a virtual clock."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.redis.memory_server import memory_server
from worker_core.errors import RedisUnavailable, ReplyError, ReplyLost
from worker_core.redis import Backoff, LinkOptions, Script, open_link

if TYPE_CHECKING:
    from worker_core.redis import Link

OPTIONS = LinkOptions(
    reply_timeout=5.0, ping_interval=math.inf, backoff=Backoff(initial=1.0, factor=2, maximum=8.0)
)

# What happens to each of a row of callers, and to the connection in between.
plans = st.lists(
    st.sampled_from(
        ["call", "call", "call", "post", "cancel early", "cancel later", "error", "cut"]
    ),
    max_size=30,
)


@given(plans)
@settings(deadline=None)
def test_each_caller_gets_its_own_reply_or_a_loss(plan: list[str]) -> None:
    trio.run(carry_out, plan, clock=MockClock(autojump_threshold=0))


async def carry_out(plan: list[str]) -> None:
    outcomes: dict[int, str] = {}
    scopes: list[trio.CancelScope] = []

    async def ask(number: int, kind: str, link: Link) -> None:
        with trio.CancelScope() as scope:
            if kind == "cancel early":
                scope.cancel()
            elif kind == "cancel later":
                scopes.append(scope)
            try:
                reply = await link.call(kind, number)
            except ReplyLost:
                outcomes[number] = "lost"
            except ReplyError as error:
                outcomes[number] = "error" if str(error) == f"ERR {number}" else "another's"
            else:
                outcomes[number] = "answered" if reply == b"%d" % number else "another's"
        outcomes.setdefault(number, "cancelled")

    def answer(call: tuple[bytes, ...]) -> bytes:
        if call[0] == b"error":
            return b"-ERR %b\r\n" % call[1]
        return b"$%d\r\n%b\r\n" % (len(call[1]), call[1])

    async with memory_server() as server:
        server.answer = answer
        async with open_link(server, options=OPTIONS) as link, trio.open_nursery() as callers:
            for number, kind in enumerate(plan):
                if kind == "cut":
                    await wait_all_tasks_blocked() if number % 2 else None
                    if server.ends:
                        await server.cut()
                elif kind == "post":
                    link.post(kind, number)
                else:
                    callers.start_soon(ask, number, kind, link)
                    if number % 3 == 0:
                        await trio.lowlevel.checkpoint()
            for scope in scopes:
                scope.cancel()
    executed = [int(call[1]) for call in server.received]
    assert len(executed) == len(set(executed))
    assert "another's" not in outcomes.values()
    for number, kind in enumerate(plan):
        if kind in ("cut", "post"):
            continue
        if "cut" not in plan:
            expected = {"call": "answered", "error": "error"}.get(kind)
            assert expected is None or outcomes[number] == expected
        if kind == "cancel early":
            assert outcomes[number] == "cancelled"
            assert number not in executed
        if outcomes[number] in ("answered", "error"):
            assert number in executed


async def test_a_silent_server_is_given_up_at_the_reply_timeout(autojump_clock: MockClock) -> None:
    async with memory_server() as server, open_link(server, options=OPTIONS) as link:
        await trio.sleep(3.3)
        server.silent = True
        began = trio.current_time()
        with pytest.raises(ReplyLost, match="no reply within 5 s"):
            await link.call("X")
        assert trio.current_time() - began == pytest.approx(5.0, abs=0.2)


async def test_a_reply_just_in_time_is_in_time(autojump_clock: MockClock) -> None:
    async with memory_server() as server, open_link(server, options=OPTIONS) as link:
        await link.wait_connected(within=1)
        end = server.ends[-1]
        server.silent = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late, end)
            assert await link.call("X") == b"late"
        await trio.sleep(60)
        assert link.reconnects == 0


async def late(end: trio.abc.Stream) -> None:
    await trio.sleep(4.9)
    await end.send_all(b"+late\r\n")


async def test_a_silence_of_our_own_is_not_blamed_on_the_server(
    autojump_clock: MockClock,
) -> None:
    async with memory_server() as server, open_link(server, options=OPTIONS) as link:
        await trio.sleep(3)
        server.silent = True
        async with trio.open_nursery() as callers:
            callers.start_soon(link.call, "X")
            await trio.sleep(3)
            # The clock goes on while nothing of ours runs, as when the process was stopped; the
            # reply lies in the socket by then, and is read a moment after the alarm.
            callers.start_soon(server.ends[-1].send_all, b"+late\r\n")
            autojump_clock.jump(40)
        assert link.is_connected
        assert link.reconnects == 0


async def test_an_idle_link_pings_and_a_busy_one_does_not(autojump_clock: MockClock) -> None:
    options = attrs.evolve(OPTIONS, ping_interval=10.0)

    async with memory_server() as server, open_link(server, options=options) as link:
        await link.wait_connected(within=1)
        for _ in range(20):
            await link.call("X")
            await trio.sleep(3)
        assert link.is_connected
        pings = server.pings
        assert pings == 1  # the handshake's own
        await trio.sleep(100)
        assert 9 <= server.pings - pings <= 11


async def test_attempts_to_connect_are_spread_and_bounded(autojump_clock: MockClock) -> None:
    async with memory_server() as server:
        server.reachable = False
        async with open_link(server, options=OPTIONS) as link:
            with pytest.raises(
                RedisUnavailable,
                match="redis://memory:6379/0 could not be reached within 600 s: nobody is there",
            ):
                await link.wait_connected(within=600)
            waits = [b - a for a, b in pairwise(server.dials)]
            assert all(wait <= 8.01 for wait in waits)
            assert all(wait <= 2.0**number + 0.01 for number, wait in enumerate(waits[:4]))
            assert 3 < sum(waits[5:]) / len(waits[5:]) < 5  # half of the maximum
            server.reachable = True
            await link.wait_connected(within=10)
            assert await link.call("X", 1) == b"1"


async def test_a_server_that_only_hangs_up_is_asked_less_and_less(
    autojump_clock: MockClock,
) -> None:
    async with memory_server() as server, open_link(server, options=OPTIONS) as link:
        for _ in range(60):
            await link.wait_connected(within=60)
            await server.cut()
            await wait_all_tasks_blocked()
            assert not link.is_connected
        waits = [b - a for a, b in pairwise(server.dials)][5:]
        assert 3 < sum(waits) / len(waits) < 5  # half of the maximum
        # One answer, and it is an ordinary server again.
        assert await link.call("X") == b"X"
        await server.cut()
        await wait_all_tasks_blocked()
        await link.wait_connected(within=1.01)


async def test_a_script_that_came_later_is_loaded_at_the_next_connect(
    autojump_clock: MockClock,
) -> None:
    script = Script("one", b"return 1")

    def answer(call: tuple[bytes, ...]) -> bytes:
        loaded = any(call[0] == b"SCRIPT" for call in server.received)
        return b"+OK\r\n" if loaded else b"-NOSCRIPT no such script\r\n"

    async with memory_server() as server, open_link(server, options=OPTIONS) as link:
        server.answer = answer
        assert await link.run_script(script, []) == b"OK"
        before = len(server.received)
        await server.cut()
        await wait_all_tasks_blocked()
        await link.wait_connected(within=10)
        assert server.received[before:] == [(b"SCRIPT", b"LOAD", b"return 1")]


@pytest.mark.parametrize("code", ["READONLY", "LOADING", "MASTERDOWN"])
async def test_refused_calls_are_made_again_in_their_order(
    autojump_clock: MockClock, code: str
) -> None:
    refuse = {b"1", b"2", b"4"}

    def answer(call: tuple[bytes, ...]) -> bytes:
        number = call[-1]
        if number in refuse:
            refuse.discard(number)
            return f"-{code} not now\r\n".encode()
        return b"+%b\r\n" % number

    async with memory_server() as server:
        server.answer = answer
        replies: list[object] = []

        async def ask(number: int) -> None:
            replies.append(await link.call("X", number))

        async with open_link(server, options=OPTIONS) as link:
            await link.wait_connected(within=1)
            async with trio.open_nursery() as callers:
                # Those after the refused ones are in flight with them: answered, and not lost.
                for number in range(6):
                    callers.start_soon(ask, number)
                    await trio.lowlevel.checkpoint()
            assert link.reconnects == 1
    assert sorted(map(str, replies)) == [str(b"%d" % number) for number in range(6)]
    again = [call[-1] for call in server.received][6:]
    assert again == sorted(again)
    assert set(again) >= {b"1", b"2", b"4"}


async def test_a_cancelled_call_that_was_refused_is_not_made_again(
    autojump_clock: MockClock,
) -> None:
    async with memory_server() as server, open_link(server, options=OPTIONS) as link:
        await link.wait_connected(within=1)
        server.silent = True
        with trio.move_on_after(0.5):
            await link.call("X", 1)
        server.silent = False
        await server.ends[-1].send_all(b"-READONLY not now\r\n")
        await wait_all_tasks_blocked()
        assert not link.is_connected
        assert await link.call("X", 2) == b"2"
    assert server.received == [(b"X", b"2")]  # the other was read in silence, and not a second time


async def test_a_server_that_refuses_is_sent_nothing_more(autojump_clock: MockClock) -> None:
    async with memory_server() as server, open_link(server, options=OPTIONS) as link:
        await link.wait_connected(within=1)
        server.silent = True
        replies: list[object] = []

        async def ask(name: str) -> None:
            replies.append(await link.call(name))

        async with trio.open_nursery() as callers:
            for name in ("refused", "answered"):
                callers.start_soon(ask, name)
                await wait_all_tasks_blocked()
            await server.ends[-1].send_all(b"-READONLY not now\r\n")
            callers.start_soon(ask, "held back")
            await wait_all_tasks_blocked()
            assert (link.in_flight, link.queued) == (1, 1)
            server.silent = False
            await server.ends[-1].send_all(b"+answered\r\n")
        assert replies == [b"answered", b"refused", b"held back"]
        assert link.reconnects == 1


async def test_a_reply_that_nobody_asked_for_ends_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with memory_server() as server:
        reasons: list[str | None] = []
        async with open_link(
            server, options=OPTIONS, on_state=lambda state: reasons.append(state.reason)
        ) as link:
            await link.wait_connected(within=1)
            await server.ends[-1].send_all(b"+surprise\r\n")
            await wait_all_tasks_blocked()
            assert not link.is_connected
            await link.wait_connected(within=10)
            assert await link.call("X", 1) == b"1"
    assert "nobody asked for: b'surprise'" in str(reasons[1])


async def test_a_script_flushed_in_a_loop_fails_its_caller_in_the_end(
    autojump_clock: MockClock,
) -> None:
    def answer(call: tuple[bytes, ...]) -> bytes:
        return b"+sha\r\n" if call[0] == b"SCRIPT" else b"-NOSCRIPT no such script\r\n"

    async with memory_server() as server:
        server.answer = answer
        async with open_link(server, options=OPTIONS) as link:
            with anyio.fail_after(60), pytest.raises(ReplyError, match="NOSCRIPT"):
                await link.run_script(Script("one", b"return 1"), [])
            assert link.reconnects == 0


async def test_garbage_in_the_middle_of_replies_loses_no_caller(
    autojump_clock: MockClock,
) -> None:
    """Those answered with NOSCRIPT in the same read are sent again, the rest is lost."""
    script = Script("one", b"return 1")

    async with memory_server() as server, open_link(server, options=OPTIONS) as link:
        await link.wait_connected(within=1)
        outcomes: list[object] = []

        async def run(number: int) -> None:
            try:
                outcomes.append(await link.run(script.bind([]), number))
            except ReplyLost:
                outcomes.append("lost")

        server.silent = True
        async with trio.open_nursery() as callers:
            callers.start_soon(run, 1)
            await wait_all_tasks_blocked()
            callers.start_soon(run, 2)
            await wait_all_tasks_blocked()
            server.silent = False
            await server.ends[-1].send_all(b"-NOSCRIPT none\r\n?garbage\r\n")
        assert sorted(map(str, outcomes)) == [str(b"1"), "lost"]

"""The promise of the link: every call has one outcome, and none is executed twice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest

from tests.integration.link_support import (
    ValkeyServer,
    endpoint_of,
    linked,
    server,
    shared_server,
    until,
    witness,
)
from worker_core.errors import ReplyLost
from worker_core.redis import Endpoint, Script
from worker_core.testing.proxy import open_chaos_proxy

if TYPE_CHECKING:
    from worker_core.redis import Link
    from worker_core.testing.proxy import ChaosProxy

__all__ = ["server", "shared_server"]

CALLS = 20_000
CALLERS = 50
CUTS = 8

RECORD = Script("record", b"return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)")


@attrs.define
class Ledger:
    """What the callers were told."""

    answered: list[int] = attrs.field(factory=list)
    lost: list[int] = attrs.field(factory=list)

    @property
    def outcomes(self) -> int:
        return len(self.answered) + len(self.lost)

    async def reach(self, outcomes: int) -> None:
        await until(lambda: self.outcomes >= outcomes, within=20)


async def record(link: Link, ids: range, ledger: Ledger) -> None:
    head = RECORD.bind(["runs"])
    for number in ids:
        try:
            count = await link.run(head, number)
        except ReplyLost:
            ledger.lost.append(number)
        else:
            # The script's answer is how often it ran for this id.
            assert count == 1
            ledger.answered.append(number)


async def break_things(proxy: ChaosProxy, server: ValkeyServer, ledger: Ledger) -> None:
    step = CALLS // (CUTS + 1)
    with witness(server) as client:
        for number in range(1, CUTS + 1):
            await ledger.reach(number * step)
            # Twice in a row: scripts unknown on a living connection, and on a new one.
            client.script_flush()
            await ledger.reach(number * step + 200)
            client.script_flush()
            assert proxy.cut(reset=number % 2 == 0) == 1


async def test_20000_calls_survive_eight_cuts_and_script_flushes(server: ValkeyServer) -> None:
    ledger = Ledger()
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked(Endpoint(host=proxy.host, port=proxy.port)) as link,
    ):
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                share = CALLS // CALLERS
                for caller in range(CALLERS):
                    ids = range(caller * share, (caller + 1) * share)
                    tasks.start_soon(record, link, ids, ledger)
                tasks.start_soon(break_things, proxy, server, ledger)
        assert link.reconnects == CUTS
    with witness(server) as client:
        runs = Counter({int(key): int(value) for key, value in client.hgetall("runs").items()})
    assert ledger.outcomes == CALLS
    assert len(set(ledger.answered) | set(ledger.lost)) == CALLS
    assert {runs[number] for number in ledger.answered} == {1}
    assert {runs[number] for number in ledger.lost} <= {0, 1}
    assert 1 <= len(ledger.lost) <= CUTS * CALLERS


async def test_calls_made_during_an_outage_are_kept_and_sent(server: ValkeyServer) -> None:
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked(Endpoint(host=proxy.host, port=proxy.port)) as link,
    ):
        await link.wait_connected(within=2)
        proxy.refusing = True
        proxy.cut()
        await until(lambda: not link.is_connected)
        replies: dict[int, object] = {}

        async def increment(number: int) -> None:
            replies[number] = await link.call("HINCRBY", "runs", number, 1)

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(increment, number)
            link.post("HINCRBY", "runs", "posted", 1)
            await until(lambda: proxy.accepted >= 3)  # it has tried, and was turned away
            assert not replies
            proxy.refusing = False
        await until(lambda: link.is_connected)
        assert replies == dict.fromkeys(range(100), 1)
        assert await link.call("HGET", "runs", "posted") == b"1"


@pytest.mark.parametrize("reset", [True, False])
async def test_a_call_in_flight_when_the_connection_ends_is_reported_lost(
    server: ValkeyServer, reset: bool
) -> None:
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked(Endpoint(host=proxy.host, port=proxy.port)) as link,
    ):
        await link.wait_connected(within=2)
        proxy.blackhole()

        async def cut_when_sent() -> None:
            await until(lambda: link.in_flight == 1)
            proxy.cut(reset=reset)
            proxy.restore()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cut_when_sent)
            with pytest.raises(ReplyLost, match="sent, but its reply never came"):
                await link.call("INCR", "n")
        assert await link.call("INCR", "n") == 1


async def test_cancelled_callers_leave_replies_aligned(server: ValkeyServer) -> None:
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked(endpoint_of(server)) as direct,
        linked(Endpoint(host=proxy.host, port=proxy.port)) as link,
    ):
        await link.wait_connected(within=2)
        proxy.blackhole()
        mismatches: list[object] = []

        async def echo(text: str) -> None:
            reply = await link.call("ECHO", text)
            if reply != text.encode():
                mismatches.append((text, reply))

        async with anyio.create_task_group() as patient, anyio.create_task_group() as impatient:
            for number in range(100):
                patient.start_soon(echo, f"kept {number}")
                impatient.start_soon(echo, f"cancelled {number}")
            await until(lambda: link.in_flight == 200)
            impatient.cancel_scope.cancel()
            proxy.restore()
        assert mismatches == []
        assert await direct.call("PING") == b"PONG"


async def test_a_call_cancelled_before_it_was_sent_is_never_executed(server: ValkeyServer) -> None:
    async with (
        open_chaos_proxy(server.host, server.port) as proxy,
        linked(Endpoint(host=proxy.host, port=proxy.port)) as link,
    ):
        await link.wait_connected(within=2)
        proxy.refusing = True
        proxy.cut()
        await until(lambda: not link.is_connected)
        with anyio.move_on_after(0.05) as scope:
            await link.call("INCR", "never")
        assert scope.cancelled_caught
        assert link.queued == 0
        proxy.refusing = False
        await link.wait_connected(within=2)
        assert await link.call("GET", "never") is None


async def test_a_caller_that_is_cancelled_already_sends_nothing(server: ValkeyServer) -> None:
    async with linked(endpoint_of(server)) as link:
        await link.wait_connected(within=2)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await link.call("INCR", "never")
        assert await link.call("GET", "never") is None

"""The pump: each sender at its time, however different their times are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest

from tests._runtime.support import task_group
from worker_core._runtime.pump import Pump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@attrs.define(eq=False)
class Waiting:
    due_at: float
    pump: Pump | None = None
    """Where it waits again, 50 ms later, as one that cannot send yet."""
    sent_at: list[float] = attrs.field(factory=list)

    def flush(self) -> None:
        self.sent_at.append(anyio.current_time())
        if self.pump is not None:
            self.due_at += 0.05
            self.pump.remember(self)


@pytest.fixture
async def pump() -> AsyncIterator[Pump]:
    async with task_group() as tasks:
        running = Pump()
        tasks.start_soon(running.run)
        yield running


async def test_one_that_is_due_sooner_does_not_wait_for_one_that_came_before(
    autojump_clock: object, pump: Pump
) -> None:
    late, soon = Waiting(0.5), Waiting(0.06)
    pump.remember(late)
    await anyio.sleep(0.01)
    pump.remember(soon)
    await anyio.sleep(5)
    assert (soon.sent_at, late.sent_at) == ([0.06], [0.5])


async def test_one_that_is_forgotten_is_not_woken(autojump_clock: object, pump: Pump) -> None:
    forgotten, other = Waiting(0.1), Waiting(0.2)
    pump.remember(forgotten)
    pump.remember(other)
    pump.forget(forgotten)
    await anyio.sleep(5)
    assert (forgotten.sent_at, other.sent_at) == ([], [0.2])


async def test_one_that_waits_again_is_woken_again(autojump_clock: object, pump: Pump) -> None:
    stubborn = Waiting(0.05, pump)
    pump.remember(stubborn)
    await anyio.sleep(0.22)
    assert stubborn.sent_at == pytest.approx([0.05, 0.1, 0.15, 0.2])


async def test_many_that_are_due_one_after_the_other_are_few_rounds(
    autojump_clock: object, pump: Pump
) -> None:
    senders = [Waiting(0.1 + number / 10_000) for number in range(200)]
    for sender in senders:
        pump.remember(sender)
    await anyio.sleep(1)
    rounds = {sender.sent_at[0] for sender in senders}
    assert len(rounds) <= 4
    assert all(sender.sent_at[0] >= sender.due_at for sender in senders)
    assert max(sender.sent_at[0] - sender.due_at for sender in senders) <= 0.0101


async def test_one_due_since_for_ever_is_sent_now(autojump_clock: object, pump: Pump) -> None:
    sender = Waiting(-math.inf)
    await anyio.sleep(1)
    pump.remember(sender)
    await anyio.sleep(1)
    assert sender.sent_at == [1.0]

"""Sharing answers: by a virtual clock."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest
from worker_core_health.sharing import NotAnswered, Shared


class Question:
    def __init__(self):
        self.asked = 0
        self.takes = 0.1

    async def ask(self):
        self.asked += 1
        number = self.asked
        await anyio.sleep(self.takes)
        return number


@pytest.fixture
def question():
    return Question()


@pytest.fixture
async def shared(question):
    async with anyio.create_task_group() as tasks:
        yield Shared(
            question.ask, tasks=tasks, within=timedelta(seconds=1), keep=timedelta(seconds=0.5)
        )
        tasks.cancel_scope.cancel()


async def test_an_answer_is_given_again_while_it_is_fresh(shared, autojump_clock):
    assert await shared.answer() == 1
    await anyio.sleep(0.4)
    assert await shared.answer() == 1
    await anyio.sleep(0.2)
    assert await shared.answer() == 2


async def test_who_asks_meanwhile_waits_for_the_same_answer(shared, question, autojump_clock):
    got = []

    async def ask():
        got.append(await shared.answer())

    async with anyio.create_task_group() as asking:
        asking.start_soon(ask)
        await anyio.sleep(0.05)
        asking.start_soon(ask)
    assert got == [1, 1]


async def test_who_hangs_up_takes_nothing_from_the_others(shared, autojump_clock):
    with anyio.move_on_after(0.05) as hung_up:
        await shared.answer()
    assert hung_up.cancelled_caught
    assert await shared.answer() == 1


async def test_a_question_is_asked_again_after_one_that_hung(shared, question, autojump_clock):
    question.takes = 3600
    with pytest.raises(NotAnswered, match="no answer in time"):
        await shared.answer()
    question.takes = 0
    await anyio.sleep(1)
    assert await shared.answer() == 2


async def test_a_question_that_does_not_heed_its_time_is_not_asked_twice(
    shared, question, autojump_clock
):
    async def stubborn():
        with anyio.CancelScope(shield=True):
            return await Question.ask(question)

    question.takes = 10
    shared._ask = stubborn
    for _ in range(3):
        with pytest.raises(NotAnswered):
            await shared.answer()
    assert question.asked == 1

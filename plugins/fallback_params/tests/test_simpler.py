"""What each step leaves out, and what it must keep."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_core_fallback_params import FallbackParamsSettings, ParamsFallback
from worker_core_fallback_params.settings import Step
from worker_core_fallback_params.simpler import HELPS, shorter_history, simpler

from worker_core import (
    Adjusted,
    ChatCall,
    EmbedCall,
    EngineError,
    FailedWay,
    FailureClass,
    Message,
    ModelInfo,
)
from worker_core.testing.fallbacks import ScriptedModels, failed_call

LONG = tuple(Message(role, f"{role} {turn}") for turn in range(5) for role in ("user", "assistant"))
CHAT = ChatCall(
    model="llama3",
    messages=(Message("system", "be kind"), *LONG, Message("user", "and now?")),
    think=True,
)
SETTINGS = FallbackParamsSettings(steps=("think_off", "max_tokens", "history", "num_ctx"))
THINKS = ModelInfo(capabilities=frozenset({"completion", "thinking"}))

# --- The steps ---


def test_thinking_is_turned_off_where_the_model_would_think() -> None:
    for think in (True, "low"):
        less = simpler(attrs.evolve(CHAT, think=think), "think_off", SETTINGS, None)
        assert less == attrs.evolve(CHAT, think=False)
    silent = attrs.evolve(CHAT, think=None)
    assert simpler(silent, "think_off", SETTINGS, THINKS) == attrs.evolve(CHAT, think=False)
    assert simpler(silent, "think_off", SETTINGS, ModelInfo(capabilities=frozenset())) is None
    assert simpler(silent, "think_off", SETTINGS, None) is None
    assert simpler(attrs.evolve(CHAT, think=False), "think_off", SETTINGS, THINKS) is None


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, True),
        ({"num_predict": 512}, False),
        ({"num_predict": 513, "seed": 1}, True),
        ({"num_predict": 0}, False),
        ({"num_predict": -1}, True),
        ({"num_predict": "many"}, True),
    ],
)
def test_an_answer_is_made_shorter_and_never_longer(
    options: dict[str, object], changes: bool
) -> None:
    call = attrs.evolve(CHAT, options=options)
    less = simpler(call, "max_tokens", SETTINGS, None)
    if changes:
        assert less == attrs.evolve(call, options={**options, "num_predict": 512})
    else:
        assert less is None


def test_json_is_not_cut_off() -> None:
    assert simpler(attrs.evolve(CHAT, format="json"), "max_tokens", SETTINGS, None) is None


def test_a_context_is_made_smaller_where_the_prompt_fits_in() -> None:
    assert simpler(CHAT, "num_ctx", SETTINGS, None) == attrs.evolve(CHAT, context_length=2048)
    assert simpler(attrs.evolve(CHAT, context_length=4096), "num_ctx", SETTINGS, None) is None
    long = attrs.evolve(CHAT, messages=(Message("user", "x" * 4 * 2049),))
    assert simpler(long, "num_ctx", SETTINGS, None) is None


def test_the_history_is_cut_at_a_turn() -> None:
    call = ("user 3", "assistant 3", "user 4", "assistant 4", "and now?")
    for most, kept in ((4, 4), (3, 2), (2, 2), (1, 0), (0, 0)):
        messages = shorter_history(CHAT.messages, most)
        expected = ["be kind", *call[4 - kept :]]
        assert [message.content for message in messages] == expected


ROLES = st.sampled_from(["system", "user", "assistant", "tool"])


@given(st.lists(ROLES, max_size=20), st.integers(0, 8))
def test_what_a_shorter_history_keeps(roles: list[str], most: int) -> None:
    messages = [Message(role, str(index)) for index, role in enumerate(roles)]
    kept = shorter_history(messages, most)
    indexes = [int(message.content) for message in kept]
    assert indexes == sorted(set(indexes))
    assert {i for i, role in enumerate(roles) if role == "system"} <= set(indexes)
    last = max((i for i, role in enumerate(roles) if role == "user"), default=0)
    assert set(range(last, len(roles))) <= set(indexes)
    between = [i for i in indexes if i < last and roles[i] != "system"]
    assert len(between) <= most
    whole = [i for i in range(last) if roles[i] != "system"]
    # What is kept is the newest, without a gap; where something is left out it begins with a turn.
    assert between == whole[len(whole) - len(between) :]
    if between and len(between) < len(whole):
        assert roles[between[0]] == "user"
    if len(whole) <= most:
        assert kept == tuple(messages)


# --- The strategy ---


def expected_steps(failure: FailureClass) -> list[Step]:
    return [step for step in SETTINGS.steps if failure in HELPS[step]]


@pytest.mark.parametrize(
    ("failure", "steps"),
    [
        (FailureClass.BAD_INPUT, []),
        (FailureClass.MODEL_MISSING, []),
        (FailureClass.UNSUPPORTED, ["think_off"]),
        (FailureClass.BUSY, []),
        (FailureClass.UNREACHABLE, []),
        (FailureClass.TIMEOUT, ["think_off", "max_tokens", "history"]),
        (FailureClass.OUT_OF_MEMORY, ["history", "num_ctx"]),
        (FailureClass.CRASHED, ["history", "num_ctx"]),
        (FailureClass.INCOMPLETE, ["think_off", "max_tokens"]),
        (FailureClass.UNAUTHORIZED, []),
        (FailureClass.CIRCUIT_OPEN, []),
    ],
)
async def test_each_failure_has_its_steps_one_on_top_of_the_other(
    failure: FailureClass, steps: list[Step]
) -> None:
    assert (failure in ParamsFallback(SETTINGS).handles) is bool(steps)
    adjusted = await attempts(ParamsFallback(SETTINGS), CHAT, failure)
    assert [one.detail["steps"] for one in adjusted] == [
        steps[: index + 1] for index in range(len(steps))
    ]
    call = CHAT
    for step, one in zip(steps, adjusted, strict=True):
        less = simpler(call, step, SETTINGS, None)
        assert less is not None
        assert one.call == less
        call = less


async def attempts(
    strategy: ParamsFallback, call: ChatCall, failure: FailureClass
) -> list[Adjusted]:
    """Let every attempt fail, and return them."""
    made: list[Adjusted] = []
    ways: list[FailedWay] = []
    while (adjusted := await strategy.answer(failed_call(call, failure, *ways))) is not None:
        made.append(adjusted)
        error = EngineError(failure, "scripted")
        ways.append(FailedWay(call=adjusted.call, error=error, strategy=strategy.name))
        assert len(made) < 10
    return made


async def test_a_step_that_changes_nothing_costs_no_attempt() -> None:
    call = attrs.evolve(CHAT, think=False)
    [one, two] = await attempts(ParamsFallback(SETTINGS), call, FailureClass.TIMEOUT)
    assert one.detail == {"steps": ["max_tokens"]}
    assert two.detail == {"steps": ["max_tokens", "history"]}


async def test_the_order_is_the_configured_one() -> None:
    settings = FallbackParamsSettings(steps=("history", "think_off"))
    made = await attempts(ParamsFallback(settings), CHAT, FailureClass.TIMEOUT)
    assert [one.detail["steps"] for one in made] == [["history"], ["history", "think_off"]]


async def test_embeddings_and_open_circuits_are_passed_over() -> None:
    strategy = ParamsFallback(SETTINGS)
    embed = EmbedCall(model="nomic", input=("a",))
    assert await strategy.answer(failed_call(embed, FailureClass.TIMEOUT)) is None
    closed = ScriptedModels({"llama3": None}, circuits_open=frozenset({"llama3"}))
    assert await strategy.answer(failed_call(CHAT, FailureClass.TIMEOUT, models=closed)) is None


async def test_a_host_that_does_not_tell_changes_little() -> None:
    models = ScriptedModels({}, unreachable=True)
    adjusted = await ParamsFallback(SETTINGS).answer(
        failed_call(CHAT, FailureClass.TIMEOUT, models=models)
    )
    assert adjusted is not None
    assert adjusted.detail == {"steps": ["think_off"]}


def test_a_step_twice_is_refused() -> None:
    settings = FallbackParamsSettings(steps=("history", "history"))
    assert list(settings.check()) == [("steps", "names a step twice")]

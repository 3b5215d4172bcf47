"""Which model answers next: a policy, without a worker."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_core_fallback_model import FallbackModelSettings, ModelFallback
from worker_core_fallback_model.ability import lacking

from worker_core import (
    ChatCall,
    EmbedCall,
    EngineError,
    FailedWay,
    FailureClass,
    Message,
    ModelInfo,
)
from worker_core.testing.fallbacks import ScriptedModels, failed_call

CHAT = ChatCall(model="llama3", messages=(Message("user", "hi"),))
EMBED = EmbedCall(model="nomic", input=("a", "b"))
TOOL = {"type": "function", "function": {"name": "f"}}
ALL = ("completion", "tools", "thinking", "vision", "embedding")


def way(model: str) -> FailedWay:
    error = EngineError(FailureClass.TIMEOUT, "scripted")
    return FailedWay(call=attrs.evolve(CHAT, model=model), error=error, strategy="any")


async def model_after(
    settings: FallbackModelSettings,
    call: ChatCall | EmbedCall = CHAT,
    *tried: str,
    models: ScriptedModels | None = None,
) -> str | None:
    known = models or ScriptedModels(dict.fromkeys("abc"))
    ways = map(way, tried)
    adjusted = await ModelFallback(settings).answer(
        failed_call(call, FailureClass.TIMEOUT, *ways, models=known)
    )
    if adjusted is None:
        return None
    assert adjusted.call == attrs.evolve(call, model=adjusted.call.model)
    assert adjusted.limits == settings.limits
    return adjusted.call.model


@pytest.mark.parametrize(
    ("failure", "helps"),
    [
        (FailureClass.BAD_INPUT, False),
        (FailureClass.MODEL_MISSING, True),
        (FailureClass.UNSUPPORTED, True),
        (FailureClass.BUSY, False),
        (FailureClass.UNREACHABLE, False),
        (FailureClass.TIMEOUT, True),
        (FailureClass.OUT_OF_MEMORY, True),
        (FailureClass.CRASHED, True),
        (FailureClass.INCOMPLETE, True),
        (FailureClass.UNAUTHORIZED, False),
        (FailureClass.CIRCUIT_OPEN, True),
    ],
)
def test_what_another_model_helps_against(failure: FailureClass, helps: bool) -> None:
    assert (failure in ModelFallback(FallbackModelSettings()).handles) is helps
    assert failure not in ModelFallback(FallbackModelSettings(enabled=False)).handles


async def test_models_answer_in_order() -> None:
    settings = FallbackModelSettings(models=("a", "b"))
    assert await model_after(settings) == "a"
    assert await model_after(settings, CHAT, "a") == "b"
    assert await model_after(settings, CHAT, "A:latest") == "b"
    assert await model_after(settings, CHAT, "a", "b") is None
    assert await model_after(FallbackModelSettings()) is None


async def test_the_model_that_failed_does_not_answer_for_itself() -> None:
    models = ScriptedModels({"Llama3:latest": None, "a": None})
    settings = FallbackModelSettings(models=("Llama3:latest", "a"))
    assert await model_after(settings, models=models) == "a"


async def test_a_model_may_have_others_of_its_own() -> None:
    settings = FallbackModelSettings(models=("a",), by_model={"LLAMA3:latest": ("b",), "alone": ()})
    assert await model_after(settings) == "b"
    assert await model_after(settings, CHAT, "b") is None
    assert await model_after(settings, attrs.evolve(CHAT, model="other")) == "a"
    assert await model_after(settings, attrs.evolve(CHAT, model="alone")) is None


async def test_a_model_that_is_no_use_is_left_out() -> None:
    settings = FallbackModelSettings(models=("gone", "open", "mute", "a"))
    models = ScriptedModels(
        {"open": None, "mute": ModelInfo(capabilities=frozenset({"embedding"})), "a": None},
        circuits_open=frozenset({"open"}),
    )
    assert await model_after(settings, models=models) == "a"


async def test_a_host_that_does_not_tell_may_answer_all_the_same() -> None:
    models = ScriptedModels({}, unreachable=True)
    assert await model_after(FallbackModelSettings(models=("a",)), models=models) == "a"


async def test_nobody_embeds_for_another_model_that_is_not_named_for_it() -> None:
    assert await model_after(FallbackModelSettings(models=("a",)), EMBED) is None
    settings = FallbackModelSettings(models=("a",), embeddings={"nomic:latest": ("b",)})
    assert await model_after(settings, EMBED) == "b"
    assert await model_after(settings, attrs.evolve(EMBED, model="other")) is None


@given(
    has=st.sets(st.sampled_from(ALL)),
    tools=st.booleans(),
    think=st.sampled_from([None, False, True, "low"]),
    images=st.booleans(),
)
def test_a_model_must_have_all_that_a_chat_needs(
    has: set[str], tools: bool, think: bool | str | None, images: bool
) -> None:
    call = attrs.evolve(
        CHAT,
        tools=(TOOL,) if tools else None,
        think=think,
        messages=(Message("user", "hi", images=("aGk=",) if images else None),),
    )
    needs = {"completion"} | ({"tools"} if tools else set())
    needs |= ({"thinking"} if think else set()) | ({"vision"} if images else set())
    assert (lacking(ModelInfo(capabilities=frozenset(has)), call) is None) is (needs <= has)
    assert lacking(ModelInfo(), call) is None


@given(words=st.integers(0, 4000), length=st.integers(1, 4000))
def test_a_prompt_must_fit(words: int, length: int) -> None:
    info = ModelInfo(context_length=length)
    call = attrs.evolve(CHAT, messages=(Message("user", "x" * 4 * words),))
    assert (lacking(info, call) is None) is (words <= length)
    texts = attrs.evolve(EMBED, input=("x", "x" * 4 * words), truncate=False)
    assert (lacking(info, texts) is None) is (words <= length)
    assert lacking(info, attrs.evolve(texts, truncate=True)) is None

"""Simpler requests: each step asks for less than what it is given. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from worker_core import ChatCall, FailureClass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker_core import Message, ModelInfo
    from worker_core_fallback_params.settings import FallbackParamsSettings, Step

__all__ = ["HELPS", "shorter_history", "simpler"]

_F = FailureClass
HELPS: Mapping[Step, frozenset[FailureClass]] = {
    # A model that thinks and writes for less long is done in time, and breaks off less.
    "think_off": frozenset({_F.TIMEOUT, _F.INCOMPLETE, _F.UNSUPPORTED}),
    "max_tokens": frozenset({_F.TIMEOUT, _F.INCOMPLETE}),
    # A shorter prompt is read sooner, and takes less memory.
    "history": frozenset({_F.TIMEOUT, _F.OUT_OF_MEMORY, _F.CRASHED}),
    "num_ctx": frozenset({_F.OUT_OF_MEMORY, _F.CRASHED}),
}
"""The failures that each step may help against."""

_CHARS_PER_TOKEN = 4


def simpler(
    call: ChatCall, step: Step, settings: FallbackParamsSettings, info: ModelInfo | None
) -> ChatCall | None:
    """Return the call made simpler by one step, `None` where the step changes nothing."""
    match step:
        case "think_off":
            return attrs.evolve(call, think=False) if _thinks(call, info) else None
        case "max_tokens":
            # JSON that is cut off is none.
            if call.format is not None or not _may_be_longer(call, settings.max_tokens):
                return None
            options = {**call.options, "num_predict": settings.max_tokens}
            return attrs.evolve(call, options=options)
        case "history":
            kept = shorter_history(call.messages, settings.history_messages)
            return None if len(kept) == len(call.messages) else attrs.evolve(call, messages=kept)
        case "num_ctx":
            # A server cuts without a word what does not fit.
            if call.context_length is not None or _tokens(call) > settings.num_ctx:
                return None
            return attrs.evolve(call, context_length=settings.num_ctx)


def _thinks(call: ChatCall, info: ModelInfo | None) -> bool:
    if call.think is None:
        # Then models think that can.
        return bool(info and info.capabilities and "thinking" in info.capabilities)
    return bool(call.think)


def _may_be_longer(call: ChatCall, most: int) -> bool:
    asked = call.options.get("num_predict")
    # Under 0 it is "without end", and "to the end of the context".
    return not isinstance(asked, int | float) or not 0 <= asked <= most


def _tokens(call: ChatCall) -> int:
    return sum(len(m.content) + len(m.thinking or "") for m in call.messages) // _CHARS_PER_TOKEN


def shorter_history(messages: Sequence[Message], most: int) -> tuple[Message, ...]:
    """Return the system's messages, the last turn, and at most so many of what lies between.

    A turn begins with what the user says, so that no answer of a tool stands without its call.
    """
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=0)
    history = [i for i in range(last) if messages[i].role != "system"]
    if len(history) <= most:
        return tuple(messages)
    recent = history[len(history) - most :]
    begin = next((i for i in recent if messages[i].role == "user"), last)
    return tuple(m for i, m in enumerate(messages) if i >= begin or m.role == "system")

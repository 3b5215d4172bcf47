"""Whether a model can do what a call asks for, as far as its host tells. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_core import ChatCall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_core import EmbedCall, ModelInfo

__all__ = ["lacking"]

_CHARS_PER_TOKEN = 4
"""The usual measure of English. A host cuts what is too long without a word, so when in doubt a
model is left out."""


def lacking(info: ModelInfo, call: ChatCall | EmbedCall) -> str | None:
    """Return what a model lacks for a call, `None` for nothing; what is not told is there."""
    if info.capabilities is not None:
        for capability in _needed(call):
            if capability not in info.capabilities:
                return f"it has no {capability}"
    if info.context_length is not None and _tokens(call) > info.context_length:
        return f"its context of {info.context_length} tokens is too short"
    return None


def _needed(call: ChatCall | EmbedCall) -> Iterator[str]:
    if not isinstance(call, ChatCall):
        yield "embedding"
        return
    yield "completion"
    if call.tools:
        yield "tools"
    if call.think:
        yield "thinking"
    if any(message.images for message in call.messages):
        yield "vision"


def _tokens(call: ChatCall | EmbedCall) -> int:
    """Return about how many tokens the model has to read at once."""
    if isinstance(call, ChatCall):
        chars = sum(len(m.content) + len(m.thinking or "") for m in call.messages)
    else:
        # A text that is too long is cut where the call says so.
        chars = 0 if call.truncate else max(map(len, call.input), default=0)
    return chars // _CHARS_PER_TOKEN

"""A chat job's data, and the call to the engine that it amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

import attrs

from worker_core import JSON, ChatCall, Fault, InvalidRequest, Message
from worker_core.durations import parse_duration

__all__ = ["ChatMessage", "ChatRequest"]

_SPELLINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "num_predict",
    "stop": "stop",
    "seed": "seed",
}
"""OpenAI's names for options, with Ollama's."""


def _not_empty(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    if not value:
        raise ValueError(f"'{field.name}' must not be empty")


def _not_negative(_: object, field: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and value < 0:
        raise ValueError(f"'{field.name}' must not be negative")


def _json_or_schema(_: object, field: attrs.Attribute[Any], value: JSON) -> None:
    if value is not None and value != "json" and not isinstance(value, Mapping):
        raise ValueError(f"'{field.name}' must be \"json\" or a JSON schema object")


def _duration(_: object, field: attrs.Attribute[Any], value: float | str | None) -> None:
    if value is None:
        return
    try:
        positive = _as_duration(value) > timedelta()
    except OverflowError:
        positive = False
    if not positive:
        raise ValueError(f"'{field.name}' must be longer than nothing, and not for ever")


def _as_duration(value: float | str) -> timedelta:
    """Read a time that a Node application gave: a number is milliseconds, as it counts."""
    return parse_duration(value) if isinstance(value, str) else timedelta(milliseconds=value)


@attrs.frozen(kw_only=True)
class ChatMessage:
    """One message, as Ollama takes it."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: tuple[str, ...] | None = None
    tool_calls: tuple[JSON, ...] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    def as_message(self) -> Message:
        """Return the engine's form."""
        return Message(
            role=self.role,
            content=self.content or "",
            thinking=self.thinking,
            images=self.images,
            tool_calls=self.tool_calls,
            tool_name=self.tool_name,
            tool_call_id=self.tool_call_id,
        )


@attrs.frozen(kw_only=True)
class ChatRequest:
    """The data of a chat job: Ollama's `/api/chat`, with the common spellings of its options."""

    model: str = attrs.field(validator=_not_empty)
    messages: tuple[ChatMessage, ...] = attrs.field(validator=_not_empty)
    options: dict[str, JSON] = attrs.field(factory=dict)
    format: JSON = attrs.field(default=None, validator=_json_or_schema)
    tools: tuple[JSON, ...] | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    keep_alive: float | str | None = None
    timeout: float | str | None = attrs.field(default=None, validator=_duration)
    """Milliseconds, or a duration such as "30s"; never more than the worker allows."""
    stream: bool = False
    """Whether the answer is also put out piece by piece, in the job's token stream."""
    metadata: dict[str, JSON] = attrs.field(factory=dict)
    """The application's own; only `tenant` is looked at, which keeps kept answers apart."""
    temperature: float | None = attrs.field(default=None, validator=_not_negative)
    top_p: float | None = attrs.field(default=None, validator=_not_negative)
    max_tokens: int | None = None
    stop: str | tuple[str, ...] | None = None
    seed: int | None = None

    @property
    def time_limit(self) -> timedelta | None:
        """How long the job wants to run at the most."""
        return None if self.timeout is None else _as_duration(self.timeout)

    @property
    def prompt_chars(self) -> int:
        """The characters of all messages."""
        return sum(len(m.content or "") + len(m.thinking or "") for m in self.messages)

    def as_call(self) -> ChatCall:
        """Return the call to the engine; raises `InvalidRequest` for what is said twice."""
        return ChatCall(
            model=self.model,
            messages=tuple(message.as_message() for message in self.messages),
            options=self._all_options(),
            format=self.format,
            tools=self.tools,
            think=self.think,
            keep_alive=self.keep_alive,
        )

    def _all_options(self) -> dict[str, JSON]:
        options = dict(self.options)
        faults = []
        for spelling, name in _SPELLINGS.items():
            value = getattr(self, spelling)
            if value is None:
                continue
            if name in options:
                faults.append(Fault(spelling, f"is said again by options.{name}; give one of them"))
            if spelling == "stop":
                value = [value] if isinstance(value, str) else list(value)
            options[name] = value
        if faults:
            raise InvalidRequest(faults)
        return options

"""The messages of a conversation in OpenAI's form, as a chat job takes them."""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Any, Literal

import attrs

from worker_core.engine import JSON
from worker_core.errors import Fault, InvalidRequest
from worker_core.openai_batch.members import refuse, unknown
from worker_core.request_fields import not_empty
from worker_core.strict_json import item_path, key_path, loads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["ChatMessage", "message_faults", "messages_data"]

_DATA_URL = re.compile(r"data:(?:image/[\w.+-]+)?(?:;[\w.=+-]+)*;base64,", re.IGNORECASE)
_NO_AUDIO = "audio is neither heard nor spoken"
_OLD_CALLS = "this old way of calling functions is replaced by tools"


def _image(_: object, field: attrs.Attribute[Any], value: str) -> None:
    head = _DATA_URL.match(value)
    if head is None:
        raise ValueError(
            f"'{field.name}' must be a data: URL of an image in base64: nothing is fetched"
        )
    try:
        binascii.a2b_base64(value[head.end() :], strict_mode=True)
    except ValueError as error:
        raise ValueError(f"'{field.name}' does not hold base64: {error}") from None


def _object_as_text(_: object, field: attrs.Attribute[Any], value: str) -> None:
    try:
        found = loads(value or "{}")
    except InvalidRequest as error:
        raise ValueError(f"'{field.name}' does not hold JSON: {error.faults[0]}") from None
    if not isinstance(found, dict):
        words = f"'{field.name}' must hold a JSON object, as text"
        raise ValueError(words)  # noqa: TRY004  # the text is at fault, not its type


@attrs.frozen(kw_only=True)
class _ImageUrl:
    url: str = attrs.field(validator=_image)
    detail: JSON = None
    """How closely to look: a matter of the model here."""


@attrs.frozen(kw_only=True)
class _Part:
    type: Literal["text", "image_url", "refusal"]
    text: str | None = None
    image_url: _ImageUrl | None = None
    refusal: str | None = None

    @property
    def words(self) -> str | None:
        """What the part says; `None` for an image."""
        return self.text if self.type == "text" else self.refusal

    def faults(self, role: str, path: str) -> Iterator[Fault]:
        if getattr(self, self.type) is None:
            yield Fault(key_path(path, self.type), "missing")
        if self.type == "image_url" and role != "user":
            yield Fault(path, "only a user's message may have images")


@attrs.frozen(kw_only=True)
class _Function:
    name: str = attrs.field(validator=not_empty)
    arguments: str = attrs.field(validator=_object_as_text)


@attrs.frozen(kw_only=True)
class _ToolCall:
    id: str
    type: Literal["function"] = "function"
    function: _Function

    def data(self) -> JSON:
        arguments = loads(self.function.arguments or "{}")
        return {"id": self.id, "function": {"name": self.function.name, "arguments": arguments}}


@attrs.frozen(kw_only=True)
class ChatMessage:
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[_Part, ...] | None = None
    name: str | None = None
    tool_calls: tuple[_ToolCall, ...] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """The other common name of what a model thought before it answered."""
    audio: JSON = attrs.field(default=None, validator=refuse(_NO_AUDIO))
    function_call: JSON = attrs.field(default=None, validator=refuse(_OLD_CALLS))
    annotations: JSON = None
    """On an answer of OpenAI's: what it quotes, which the text says too."""

    @property
    def parts(self) -> Sequence[_Part]:
        """The parts of what it says, where it has parts."""
        return self.content if isinstance(self.content, tuple) else ()

    @property
    def words(self) -> str:
        """All that it says."""
        if isinstance(self.content, str):
            return self.content
        said = [part.words for part in self.parts]
        return "\n".join(words for words in said if words is not None) or self.refusal or ""

    def faults(self, path: str) -> Iterator[Fault]:
        """Yield what its members, each good by itself, do not say together."""
        for index, part in enumerate(self.parts):
            yield from part.faults(self.role, item_path(key_path(path, "content"), index))
        is_answer = self.role == "assistant"
        says_otherwise = is_answer and (self.tool_calls or self.refusal)
        if not self.content and not isinstance(self.content, str) and not says_otherwise:
            yield Fault(key_path(path, "content"), "must not be empty")
        if self.role == "tool" and not self.tool_call_id:
            yield Fault(key_path(path, "tool_call_id"), "missing")
        if self.name is not None and self.role != "tool":
            yield Fault(
                key_path(path, "name"), "cannot be used here: models are not told who speaks"
            )
        if self.tool_calls and not is_answer:
            yield Fault(key_path(path, "tool_calls"), "only an assistant's message may have them")

    def data(self, tool_names: dict[str, str]) -> JSON:
        """Return the message of a chat job; `tool_names` are those of the calls before it, by id."""
        data: dict[str, JSON] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.words,
        }
        images: list[JSON] = [
            part.image_url.url.partition(",")[2]
            for part in self.parts
            if part.image_url is not None
        ]
        calls = [call.data() for call in self.tool_calls or ()]
        tool_call_id = self.tool_call_id if self.role == "tool" else None
        optional: dict[str, JSON] = {
            "thinking": self.reasoning or self.reasoning_content,
            "images": images or None,
            "tool_calls": calls or None,
            "tool_call_id": tool_call_id,
            "tool_name": tool_call_id and (self.name or tool_names.get(tool_call_id)),
        }
        data.update({name: value for name, value in optional.items() if value is not None})
        return data


def message_faults(raw: Sequence[JSON], messages: Sequence[ChatMessage]) -> Iterator[Fault]:
    """Yield the faults of messages that have the right form; `raw` is what they were read from."""
    for index, (written, message) in enumerate(zip(raw, messages, strict=True)):
        path = item_path("messages", index)
        yield from unknown(written, ChatMessage, path)
        yield from message.faults(path)


def messages_data(messages: Sequence[ChatMessage]) -> list[JSON]:
    """Return a chat job's messages."""
    names: dict[str, str] = {}
    written = []
    for message in messages:
        written.append(message.data(names))
        names |= {call.id: call.function.name for call in message.tool_calls or ()}
    return written

"""A chat completion's request in OpenAI's form, as the data of a chat job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs

from worker_core.engine import JSON
from worker_core.errors import Fault, InvalidRequest
from worker_core.openai_batch.chat_messages import ChatMessage, message_faults, messages_data
from worker_core.openai_batch.members import at_least, items, member, read_body, refuse, unknown
from worker_core.request_fields import not_empty
from worker_core.strict_json import item_path, key_path

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["chat_data"]

_NO_LOGPROBS = "an answer has no probabilities of tokens"
_NO_STREAM = "an item of a batch is answered as a whole"
_NO_SEARCH = "nothing is searched for"
_NO_AUDIO = "answers are text"
_NO_VERBOSITY = "a model cannot be told how much to say"
_NO_BIAS = "the chance of single tokens cannot be changed"
_OLD_CALLS = "this old way of calling functions is replaced by tools"

_EFFORTS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}
"""OpenAI's words for how much a model is to think, with Ollama's."""


def _free_choice(_: object, field: attrs.Attribute[Any], value: JSON) -> None:
    if value not in (None, "auto", "none"):
        raise ValueError(f'\'{field.name}\' must be "auto" or "none": no model can be made to call')


@attrs.frozen(kw_only=True)
class _Function:
    name: str = attrs.field(validator=not_empty)
    description: str | None = None
    parameters: dict[str, JSON] | None = None
    strict: bool | None = None


@attrs.frozen(kw_only=True)
class _Tool:
    type: Literal["function"]
    function: _Function

    def data(self) -> JSON:
        function = self.function
        told: dict[str, JSON] = {"name": function.name}
        if function.description is not None:
            told["description"] = function.description
        # A function without parameters takes none; Ollama wants to be told so.
        told["parameters"] = function.parameters or {"type": "object", "properties": {}}
        return {"type": self.type, "function": told}


@attrs.frozen(kw_only=True)
class _JsonSchema:
    schema: dict[str, JSON]
    name: JSON = None
    description: JSON = None
    strict: JSON = None


@attrs.frozen(kw_only=True)
class _ResponseFormat:
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None

    def data(self) -> JSON:
        """Return what a chat job calls the format; `None` for text."""
        match self.type:
            case "text":
                return None
            case "json_object":
                return "json"
            case "json_schema":
                return None if self.json_schema is None else self.json_schema.schema


@attrs.frozen(kw_only=True)
class _ChatBody:
    model: str = attrs.field(validator=not_empty)
    messages: tuple[ChatMessage, ...] = attrs.field(validator=not_empty)

    temperature: float | None = attrs.field(default=None, validator=at_least(0))
    top_p: float | None = attrs.field(default=None, validator=at_least(0))
    max_tokens: int | None = attrs.field(default=None, validator=at_least(1))
    max_completion_tokens: int | None = attrs.field(default=None, validator=at_least(1))
    stop: str | tuple[str, ...] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    response_format: _ResponseFormat | None = None
    tools: tuple[_Tool, ...] | None = None
    tool_choice: JSON = attrs.field(default=None, validator=_free_choice)
    parallel_tool_calls: bool | None = None
    metadata: dict[str, JSON] | None = None

    # What no answer depends on.
    user: JSON = None
    store: JSON = None
    service_tier: JSON = None
    safety_identifier: JSON = None
    prompt_cache_key: JSON = None
    prompt_cache_retention: JSON = None
    prediction: JSON = None

    n: JSON = attrs.field(default=None, validator=refuse("a request has one answer", but=1))
    stream: JSON = attrs.field(default=None, validator=refuse(_NO_STREAM, but=False))
    stream_options: JSON = attrs.field(default=None, validator=refuse(_NO_STREAM))
    logprobs: JSON = attrs.field(default=None, validator=refuse(_NO_LOGPROBS, but=False))
    top_logprobs: JSON = attrs.field(default=None, validator=refuse(_NO_LOGPROBS, but=0))
    logit_bias: JSON = attrs.field(default=None, validator=refuse(_NO_BIAS, but={}))
    modalities: JSON = attrs.field(default=None, validator=refuse(_NO_AUDIO, but=["text"]))
    audio: JSON = attrs.field(default=None, validator=refuse(_NO_AUDIO))
    verbosity: JSON = attrs.field(default=None, validator=refuse(_NO_VERBOSITY, but="medium"))
    web_search_options: JSON = attrs.field(default=None, validator=refuse(_NO_SEARCH))
    functions: JSON = attrs.field(default=None, validator=refuse(_OLD_CALLS))
    function_call: JSON = attrs.field(default=None, validator=refuse(_OLD_CALLS))

    def faults(self, raw: JSON) -> Iterator[Fault]:
        """Yield what its members, each good by itself, do not say together."""
        yield from message_faults(items(member(raw, "messages")), self.messages)
        for index, tool in enumerate(items(member(raw, "tools"))):
            path = item_path("tools", index)
            yield from unknown(tool, _Tool, path)
            yield from unknown(member(tool, "function"), _Function, key_path(path, "function"))
        asked = self.response_format
        if asked is not None and asked.type == "json_schema" and asked.json_schema is None:
            yield Fault("response_format.json_schema", "missing")
        given = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(given) > 1:
            yield Fault("max_tokens", "differs from max_completion_tokens; give one of them")
        if self.parallel_tool_calls is False and self._offered:
            yield Fault(
                "parallel_tool_calls", "cannot be used here: a model calls as many as it likes"
            )

    @property
    def _offered(self) -> tuple[_Tool, ...]:
        """The tools that the model may call."""
        return () if self.tool_choice == "none" else self.tools or ()

    def data(self) -> dict[str, JSON]:
        effort = self.reasoning_effort
        penalties: dict[str, JSON] = {
            name: value
            for name in ("frequency_penalty", "presence_penalty")
            if (value := getattr(self, name)) is not None
        }
        optional: dict[str, JSON] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "stop": list(self.stop) if isinstance(self.stop, tuple) else self.stop,
            "seed": self.seed,
            "options": penalties or None,
            "think": None if effort is None else _EFFORTS[effort],
            "format": None if self.response_format is None else self.response_format.data(),
            "tools": [tool.data() for tool in self._offered] or None,
            "metadata": self.metadata,
        }
        data: dict[str, JSON] = {"model": self.model, "messages": messages_data(self.messages)}
        data.update({name: value for name, value in optional.items() if value is not None})
        return data


def chat_data(body: JSON) -> dict[str, JSON]:
    """Return the job's data; raises `InvalidRequest` with what is wrong or cannot be done here."""
    read = read_body(body, _ChatBody)
    faults = list(read.faults(body))
    if faults:
        raise InvalidRequest(faults)
    return read.data()

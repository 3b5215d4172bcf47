"""Requests to Ollama: calls to the JSON on its wire, with the runner's options frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from worker_core.engine import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker_core.engine import JSON, ChatCall, EmbedCall, Message
    from worker_core_ollama.settings import RunnerProfile

__all__ = ["Prepared", "chat_request", "embed_request", "load_request", "show_request"]

_FROZEN = frozenset(
    {"num_ctx", "num_gpu", "num_batch", "num_thread", "main_gpu", "use_mmap", "shift"}
)


@attrs.frozen(kw_only=True)
class Prepared:
    """A request, ready to be written."""

    path: str
    body: dict[str, JSON]
    warnings: tuple[str, ...] = ()
    """What is sent otherwise than asked."""


def chat_request(call: ChatCall, runner: RunnerProfile) -> Prepared:
    """Return the request for an answer: always a stream, so that a stop is seen at once."""
    body: dict[str, JSON] = {
        "model": call.model,
        "messages": [_message(message) for message in call.messages],
        "stream": True,
    }
    optional: dict[str, JSON] = {
        "format": call.format,
        "tools": list(call.tools) if call.tools else None,
        "think": call.think,
        "keep_alive": call.keep_alive,
    }
    body.update({name: value for name, value in optional.items() if value is not None})
    warnings = _add_options(body, call.options, runner)
    return Prepared(path="/api/chat", body=body, warnings=warnings)


def embed_request(call: EmbedCall, runner: RunnerProfile) -> Prepared:
    """Return the request for the vectors of all inputs at once."""
    body: dict[str, JSON] = {
        "model": call.model,
        "input": list(call.input),
        "truncate": call.truncate,
    }
    optional: dict[str, JSON] = {"dimensions": call.dimensions, "keep_alive": call.keep_alive}
    body.update({name: value for name, value in optional.items() if value is not None})
    warnings = _add_options(body, call.options, runner)
    return Prepared(path="/api/embed", body=body, warnings=warnings)


def load_request(model: str, operation: Operation, runner: RunnerProfile) -> Prepared:
    """Return the request that loads a model and asks it nothing."""
    body: dict[str, JSON] = {"model": model}
    match operation:
        case Operation.CHAT:
            path = "/api/chat"
            body.update(messages=[], stream=False)
        case Operation.EMBED:
            path = "/api/embed"
            body["input"] = []
    _add_options(body, {}, runner)
    return Prepared(path=path, body=body)


def show_request(model: str) -> Prepared:
    """Return the request for what the server knows of a model, which loads nothing."""
    return Prepared(path="/api/show", body={"model": model})


def _add_options(
    body: dict[str, JSON], asked: Mapping[str, JSON], runner: RunnerProfile
) -> tuple[str, ...]:
    frozen = {name: value for name, value in attrs.asdict(runner).items() if value is not None}
    dropped = [name for name in asked if name in _FROZEN and asked[name] != frozen.get(name)]
    shift = frozen.pop("shift", None)
    if shift is not None:
        body["shift"] = shift
    free = {name: value for name, value in asked.items() if name not in _FROZEN}
    options: dict[str, JSON] = {**free, **frozen}
    if options:
        body["options"] = options
    if not dropped:
        return ()
    warning = (
        f"left out {', '.join(dropped)}: it would make the server load {body['model']!r} anew "
        "for everybody; an operator sets it in [plugins.ollama.runner] or runner_by_model"
    )
    return (warning,)


def _message(message: Message) -> JSON:
    wire: dict[str, JSON] = {"role": message.role, "content": message.content}
    optional: dict[str, JSON] = {
        "thinking": message.thinking,
        "images": list(message.images) if message.images else None,
        "tool_calls": list(message.tool_calls) if message.tool_calls else None,
        "tool_name": message.tool_name,
        "tool_call_id": message.tool_call_id,
    }
    wire.update({name: value for name, value in optional.items() if value is not None})
    return wire

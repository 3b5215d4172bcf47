"""llama.cpp's `/completion`: calls to its JSON, and its event stream to answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import orjson

from worker_core.engine import JSON, ChatAnswer, ChatChunk, Message
from worker_core.errors import EngineError, FailureClass
from worker_core.structure import InvalidData, structure
from worker_core_llamacpp.failures import incomplete
from worker_core_llamacpp.left_out import left_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core.engine import ChatCall

__all__ = ["CompletionReader", "completion_request", "prompt_of"]

_NS_PER_MS = 1_000_000
_MAX_LINE = 4 * 1024 * 1024
_SAME_NAME = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop", "repeat_penalty",
    "repeat_last_n", "presence_penalty", "frequency_penalty",
)  # fmt: skip


def prompt_of(messages: tuple[Message, ...]) -> str:
    """Return the text to continue: a base model knows no roles, so contents are lines of it."""
    return "\n".join(message.content for message in messages)


def completion_request(call: ChatCall, max_tokens: int) -> tuple[dict[str, JSON], tuple[str, ...]]:
    """Return the request for an answer, and warnings; raises `EngineError` (unsupported)."""
    _refuse_unsupported(call)
    options = call.options
    body: dict[str, JSON] = {name: options[name] for name in _SAME_NAME if name in options}
    if isinstance(stop := body.get("stop"), str):
        body["stop"] = [stop]
    body["n_predict"] = options.get("num_predict", max_tokens)
    body["prompt"] = prompt_of(call.messages)
    body["stream"] = True
    if call.format is not None:
        body["json_schema"] = _schema(call.format)
    return body, left_out(call)


@attrs.frozen(kw_only=True)
class _Timings:
    prompt_ms: float | None = None
    predicted_ms: float | None = None


@attrs.frozen(kw_only=True)
class _Event:
    content: str = ""
    stop: bool = False
    stop_type: str | None = None
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    timings: _Timings = _Timings()
    error: JSON = None


class CompletionReader:
    """Reads an event stream: bytes in, chunks out as they come, the whole answer at the end."""

    def __init__(self, model: str, on_chunk: Callable[[ChatChunk], None]) -> None:
        self._model = model
        self._on_chunk = on_chunk
        self._rest = b""
        self._content: list[str] = []
        self._last: _Event | None = None
        self.begun = False
        """Whether anything has come."""

    def feed(self, data: bytes) -> bool:
        """Take the next bytes and tell whether the last event has come; raises `EngineError`."""
        self.begun = True
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            kind, _, value = line.partition(b":")
            if kind in {b"data", b"error"} and self._last is None:
                self._take(value.strip(), is_error=kind == b"error")
        if len(self._rest) > _MAX_LINE:
            raise incomplete(self._model, "a line without an end")
        return self._last is not None

    def finish(self, total_duration: int, warnings: tuple[str, ...]) -> ChatAnswer:
        """Return the answer once the stream has ended; raises `EngineError` (incomplete)."""
        last = self._last
        if last is None:
            raise incomplete(self._model, "the answer broke off before its end")
        return ChatAnswer(
            model=self._model,
            message=Message(role="assistant", content="".join(self._content)),
            done_reason="length" if last.stop_type == "limit" else "stop",
            total_duration=total_duration,
            prompt_eval_count=last.tokens_evaluated,
            prompt_eval_duration=_nanoseconds(last.timings.prompt_ms),
            eval_count=last.tokens_predicted,
            eval_duration=_nanoseconds(last.timings.predicted_ms),
            warnings=warnings,
        )

    def _take(self, raw: bytes, *, is_error: bool) -> None:
        try:
            event = structure(orjson.loads(raw), _Event)
        except (orjson.JSONDecodeError, InvalidData):
            raise incomplete(self._model, "an event of another form") from None
        if is_error or event.error is not None:
            raise EngineError(
                FailureClass.CRASHED,
                f"embedded: llama.cpp failed within an answer of {self._model!r}",
            )
        if event.content:
            self._content.append(event.content)
            self._on_chunk(ChatChunk(content=event.content))
        if event.stop:
            self._last = event


def _schema(asked: JSON) -> JSON:
    if asked == "json":
        return {}
    if isinstance(asked, dict):
        return asked
    raise EngineError(
        FailureClass.BAD_INPUT, 'embedded: the format is neither "json" nor a JSON schema'
    )


def _refuse_unsupported(call: ChatCall) -> None:
    unsupported = {
        "tools": bool(call.tools),
        "thinking": bool(call.think),
        "images": any(message.images for message in call.messages),
    }
    for what, asked in unsupported.items():
        if asked:
            raise EngineError(
                FailureClass.UNSUPPORTED, f"embedded: {call.model!r} does not support {what}"
            )


def _nanoseconds(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * _NS_PER_MS)

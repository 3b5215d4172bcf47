"""Ollama's answers: JSON from its wire to the engine's frozen data."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import attrs
import orjson

from worker_core.engine import JSON, ChatAnswer, ChatChunk, EmbedAnswer, Message, ModelInfo
from worker_core.model_name import canonical_model_name
from worker_core.structure import InvalidData, structure
from worker_core_ollama.ndjson import LineSplitter, LineTooLong

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BrokenAnswer",
    "ChatReader",
    "ErrorLine",
    "error_text",
    "read_embeddings",
    "read_loaded",
    "read_model_info",
]

_T = TypeVar("_T")


class BrokenAnswer(ValueError):
    """An answer that is no answer; the message says why, never what it held."""


class ErrorLine(Exception):
    """The server reported an error within its answer; `text` is in its words."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


@attrs.frozen(kw_only=True)
class _WireMessage:
    role: str = "assistant"
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[JSON] | None = None


@attrs.frozen(kw_only=True)
class _ChatLine:
    model: str | None = None
    created_at: str | None = None
    message: _WireMessage | None = None
    done: bool = False
    done_reason: str | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[JSON] | None = None
    error: JSON = None


@attrs.frozen(kw_only=True)
class _EmbedReply:
    model: str | None = None
    embeddings: JSON = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None


@attrs.frozen(kw_only=True)
class _LoadedModel:
    name: str
    expires_at: str | None = None


@attrs.frozen(kw_only=True)
class _LoadedModels:
    models: list[_LoadedModel] | None = None


@attrs.frozen(kw_only=True)
class _ShownModel:
    capabilities: list[str] | None = None
    model_info: dict[str, JSON] | None = None


class ChatReader:
    """Reads a streamed answer: bytes in, chunks out as they come, the whole answer at the end."""

    def __init__(self, model: str, on_chunk: Callable[[ChatChunk], None]) -> None:
        self._model = model
        self._on_chunk = on_chunk
        self._lines = LineSplitter()
        self._content: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[JSON] = []
        self._logprobs: list[JSON] = []
        self._role = "assistant"
        self._last: _ChatLine | None = None
        self.begun = False
        """Whether anything has come."""

    def feed(self, data: bytes) -> bool:
        """Take the next bytes, of any length, and tell whether the last line has come.

        Raises `BrokenAnswer` or `ErrorLine`.
        """
        self.begun = self.begun or bool(data)
        try:
            for line in self._lines.feed(data):
                self._take(line)
        except LineTooLong:
            raise BrokenAnswer("a line without an end") from None
        return self._last is not None

    def finish(self, warnings: tuple[str, ...] = ()) -> ChatAnswer:
        """Return the answer once the stream has ended; raises `BrokenAnswer` or `ErrorLine`."""
        for line in self._lines.finish():
            self._take(line)
        last = self._last
        if last is None:
            raise BrokenAnswer("the answer broke off before its end")
        message = Message(
            role=self._role,
            content="".join(self._content),
            thinking="".join(self._thinking) or None,
            tool_calls=tuple(self._tool_calls) or None,
        )
        return ChatAnswer(
            model=last.model or self._model,
            message=message,
            created_at=last.created_at,
            done_reason=last.done_reason,
            total_duration=last.total_duration,
            load_duration=last.load_duration,
            prompt_eval_count=last.prompt_eval_count,
            prompt_eval_duration=last.prompt_eval_duration,
            eval_count=last.eval_count,
            eval_duration=last.eval_duration,
            logprobs=self._logprobs or None,
            warnings=warnings,
        )

    def _take(self, raw: bytes) -> None:
        if self._last is not None:
            return
        line = _structured(_parsed(raw), _ChatLine)
        if line.error is not None:
            raise ErrorLine(error_text(line.error))
        if line.message is not None:
            self._take_message(line.message)
        self._logprobs.extend(line.logprobs or ())
        if line.done:
            self._last = line

    def _take_message(self, message: _WireMessage) -> None:
        self._role = message.role
        content, thinking = message.content or "", message.thinking or ""
        tool_calls = tuple(message.tool_calls or ())
        if content:
            self._content.append(content)
        if thinking:
            self._thinking.append(thinking)
        self._tool_calls.extend(tool_calls)
        if content or thinking or tool_calls:
            self._on_chunk(ChatChunk(content, thinking, tool_calls))


def read_embeddings(
    raw: bytes, model: str, count: int, warnings: tuple[str, ...] = ()
) -> EmbedAnswer:
    """Return the vectors: as many as inputs, all of one length, finite; raises `BrokenAnswer`."""
    reply = _structured(_parsed(raw), _EmbedReply)
    vectors = reply.embeddings if isinstance(reply.embeddings, list) else []
    if len(vectors) != count:
        raise BrokenAnswer(f"{len(vectors)} vectors for {count} inputs")
    found = tuple([_vector(vector, index) for index, vector in enumerate(vectors)])
    lengths = {len(vector) for vector in found}
    if len(lengths) > 1:
        raise BrokenAnswer(f"vectors of different lengths: {sorted(lengths)}")
    return EmbedAnswer(
        model=reply.model or model,
        embeddings=found,
        total_duration=reply.total_duration,
        load_duration=reply.load_duration,
        prompt_eval_count=reply.prompt_eval_count,
        warnings=warnings,
    )


def read_loaded(raw: bytes, now: datetime) -> frozenset[str]:
    """Return the canonical names in an answer of `/api/ps`, without those that are stopping.

    `now` is the server's time: its clock and ours need not agree.
    """
    reply = _structured(_parsed(raw), _LoadedModels)
    return frozenset(
        canonical_model_name(model.name)
        for model in reply.models or ()
        if not _is_past(model.expires_at, now)
    )


def read_model_info(raw: bytes) -> ModelInfo:
    """Return what an answer of `/api/show` tells of a model."""
    shown = _structured(_parsed(raw), _ShownModel)
    lengths = [
        value
        for name, value in (shown.model_info or {}).items()
        # `<architecture>.context_length`; what it was trained with stands beside it in some.
        if name.count(".") == 1 and name.endswith(".context_length") and isinstance(value, int)
    ]
    return ModelInfo(
        # Servers before 0.6.4 do not tell.
        capabilities=None if shown.capabilities is None else frozenset(shown.capabilities),
        context_length=lengths[0] if lengths else None,
    )


def error_text(value: JSON) -> str:
    """Return the words of an `error`, which a proxy may have put into an object."""
    if isinstance(value, dict):
        return error_text(value.get("message"))
    return value if isinstance(value, str) else ""


def _vector(value: JSON, index: int) -> tuple[float, ...]:
    """Check a vector as a whole: structuring each number would cost more than computing it did."""
    try:
        total = math.fsum(value)  # type: ignore[arg-type]  # whatever is no number raises TypeError
    except (TypeError, OverflowError, ValueError):
        total = math.nan
    if not isinstance(value, list) or not value or not math.isfinite(total):
        raise BrokenAnswer(f"vector {index} is empty or not of finite numbers")
    return tuple(value)  # type: ignore[arg-type]  # fsum has seen that they are numbers


def _parsed(raw: bytes) -> JSON:
    try:
        value: JSON = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise BrokenAnswer("a line that is not JSON") from None
    return value


def _structured(value: JSON, shape: type[_T]) -> _T:
    try:
        return structure(value, shape)
    except InvalidData as error:
        raise BrokenAnswer(f"a line of another form ({error})") from None


def _is_past(expires_at: str | None, now: datetime) -> bool:
    if expires_at is None:
        return False
    try:
        until = datetime.fromisoformat(expires_at)
    except ValueError:
        return False
    return until.tzinfo is not None and until < now

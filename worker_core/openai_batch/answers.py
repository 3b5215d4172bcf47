"""What an item was answered, as the body of the response that OpenAI would have given."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import attrs

from worker_core.engine import JSON
from worker_core.openai_batch.endpoint import Endpoint
from worker_core.strict_json import dumps
from worker_core.structure import InvalidData, structure

if TYPE_CHECKING:
    from worker_core.client import Result

__all__ = ["response_body"]

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class _Function:
    name: str
    arguments: dict[str, JSON] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class _ToolCall:
    id: str | None = None
    function: _Function


@attrs.frozen(kw_only=True)
class _Message:
    content: str | None = None
    thinking: str | None = None
    tool_calls: tuple[_ToolCall, ...] | None = None


@attrs.frozen(kw_only=True)
class _ChatAnswer:
    model: str
    message: _Message
    created_at: str | None = None
    done_reason: str | None = None


@attrs.frozen(kw_only=True)
class _EmbeddingsAnswer:
    model: str
    # Numbers, or base64; not looked at one by one, since there are many.
    embeddings: JSON


def response_body(job_type: str, result: Result, *, item_id: str, created: int) -> JSON:
    """Return the body of a response; of types that OpenAI has not, the answer as it is.

    `item_id` names the item apart from all others; `created` (seconds since the epoch) is for answers
    that do not say when they were made.
    """
    match job_type:
        case Endpoint.CHAT.job_type if (chat := _read(result.answer, _ChatAnswer)) is not None:
            return _chat_completion(chat, result, item_id, created)
        case Endpoint.EMBEDDINGS.job_type if (
            embeddings := _read(result.answer, _EmbeddingsAnswer)
        ) is not None:
            return _embedding_list(embeddings, result)
        case _:
            return result.answer


def _read(answer: JSON, shape: type[T]) -> T | None:
    try:
        return structure(answer, shape)
    except InvalidData:  # a newer worker's, or not ours
        return None


def _chat_completion(answer: _ChatAnswer, result: Result, item_id: str, created: int) -> JSON:
    said = answer.message
    calls: list[JSON] = [
        {
            "id": call.id or f"call_{item_id}_{index}",
            "type": "function",
            "function": {
                "name": call.function.name,
                "arguments": dumps(call.function.arguments).decode(),
            },
        }
        for index, call in enumerate(said.tool_calls or ())
    ]
    message: dict[str, JSON] = {
        "role": "assistant",
        "content": said.content or (None if calls else ""),
        "refusal": None,
    }
    if said.thinking:
        message["reasoning"] = said.thinking
    if calls:
        message["tool_calls"] = calls
    usage = result.usage
    return {
        "id": f"chatcmpl-{item_id}",
        "object": "chat.completion",
        "created": _seconds(answer.created_at, created),
        "model": answer.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": _finish_reason(answer.done_reason, has_calls=bool(calls)),
            }
        ],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
        "system_fingerprint": None,
    }


def _finish_reason(done_reason: str | None, *, has_calls: bool) -> str:
    if has_calls:
        return "tool_calls"
    return "length" if done_reason == "length" else "stop"


def _embedding_list(answer: _EmbeddingsAnswer, result: Result) -> JSON:
    vectors = answer.embeddings if isinstance(answer.embeddings, list) else []
    tokens = result.usage.prompt_tokens
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "model": answer.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _seconds(moment: str | None, otherwise: int) -> int:
    try:
        return otherwise if moment is None else int(datetime.fromisoformat(moment).timestamp())
    except (ValueError, OverflowError):
        return otherwise

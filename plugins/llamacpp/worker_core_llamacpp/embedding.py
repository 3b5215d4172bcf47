"""llama.cpp's `/tokenize` and `/v1/embeddings`: texts to their JSON, and its vectors to ours."""

from __future__ import annotations

import math
from typing import TypeVar

import attrs
import orjson

from worker_core.engine import JSON
from worker_core.errors import EngineError, FailureClass
from worker_core.structure import InvalidData, structure
from worker_core_llamacpp.failures import incomplete

__all__ = [
    "Embedding",
    "embedding_request",
    "may_exceed",
    "read_embedding",
    "read_tokens",
    "tokenize_request",
]

Vector = tuple[float, ...]
_T = TypeVar("_T")

_ADDED_TOKENS = 4
"""What a vocabulary may put before and after a text, generously."""


@attrs.frozen
class Embedding:
    """The vector of one input, of norm 1, and how many tokens the input had."""

    vector: Vector
    tokens: int | None


@attrs.frozen(kw_only=True)
class _Item:
    embedding: JSON


@attrs.frozen(kw_only=True)
class _Usage:
    prompt_tokens: int | None = None


@attrs.frozen(kw_only=True)
class _Reply:
    data: list[_Item]
    usage: _Usage = _Usage()


@attrs.frozen(kw_only=True)
class _Tokens:
    tokens: list[int]


def may_exceed(text: str, limit: int) -> bool:
    """Tell whether a text may have more tokens than that; no token is of less than a byte."""
    return len(text.encode("utf-8", "surrogatepass")) + _ADDED_TOKENS > limit


def tokenize_request(text: str) -> dict[str, JSON]:
    """Return the request for a text's tokens, just as embedding it would make them."""
    return {"content": text, "add_special": True, "parse_special": True}


def read_tokens(raw: bytes, model: str) -> list[int]:
    """Return the tokens; raises `EngineError` (incomplete)."""
    return _structured(raw, _Tokens, model).tokens


def embedding_request(given: JSON) -> dict[str, JSON]:
    """Return the request for the vector of one text, or of its tokens."""
    return {"input": [given]}


def read_embedding(raw: bytes, model: str, dimensions: int | None = None) -> Embedding:
    """Return the one vector, or its first `dimensions`, which then are of norm 1 again.

    Raises `EngineError`: incomplete, or unsupported where the vector has fewer.
    """
    reply = _structured(raw, _Reply, model)
    if len(reply.data) != 1:
        raise incomplete(model, f"{len(reply.data)} vectors for one input")
    vector = _vector(reply.data[0].embedding, model)
    return Embedding(_shortened(vector, dimensions, model), reply.usage.prompt_tokens)


def _vector(value: JSON, model: str) -> Vector:
    """Check a vector as a whole: structuring each number would cost more than computing it did."""
    try:
        total = math.fsum(value)  # type: ignore[arg-type]  # whatever is no number raises TypeError
    except (TypeError, OverflowError, ValueError):
        total = math.nan
    if not isinstance(value, list) or not value or not math.isfinite(total):
        raise incomplete(model, "a vector that is empty or not of finite numbers")
    return tuple(value)  # type: ignore[arg-type]  # fsum has seen that they are numbers


def _shortened(vector: Vector, dimensions: int | None, model: str) -> Vector:
    if dimensions is None or dimensions == len(vector):
        return vector
    if dimensions > len(vector):
        raise EngineError(
            FailureClass.UNSUPPORTED,
            f"embedded: {model!r} gives vectors of {len(vector)} dimensions, not of {dimensions}",
        )
    first = vector[:dimensions]
    norm = math.hypot(*first)
    return tuple([number / norm for number in first]) if norm else first


def _structured(raw: bytes, shape: type[_T], model: str) -> _T:
    try:
        return structure(orjson.loads(raw), shape)
    except (orjson.JSONDecodeError, InvalidData):
        raise incomplete(model, "an answer of another form") from None

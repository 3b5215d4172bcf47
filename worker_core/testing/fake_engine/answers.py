"""What the fake engine answers: pure functions of the request, so that every run is alike."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import re
import struct
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker_core.engine import JSON

__all__ = ["answer_tokens", "disturbed", "embedding", "formatted_text", "word_count"]

_TOKEN = re.compile(r"\s*\S+")
_NOTHING_SAID = "ok"
_SCALARS: dict[str, JSON] = {"integer": 1, "number": 1.5, "boolean": True, "null": None}


def answer_tokens(text: str, count: int | None) -> list[str]:
    """Split `text` into tokens, each with the blanks before it; `count` repeats or cuts them."""
    tokens = _TOKEN.findall(text) or [_NOTHING_SAID]
    if count is None:
        return tokens
    if count <= len(tokens):
        return tokens[:count]
    spaced = [f" {tokens[0].lstrip()}", *tokens[1:]]
    return tokens + list(itertools.islice(itertools.cycle(spaced), count - len(tokens)))


def word_count(texts: Sequence[str]) -> int:
    """Count the words of all texts: the fake's measure of a prompt."""
    return sum(len(text.split()) for text in texts)


@functools.lru_cache(maxsize=4096)
def embedding(text: str, dimensions: int) -> tuple[float, ...]:
    """Return the vector of `text`: made from its hash, of length 1."""
    raw = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(dimensions * 2)
    numbers = struct.unpack(f"<{dimensions}h", raw)
    # All zero needs a hash of zeros; the floor keeps even that finite.
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return tuple([round(number / length, 8) for number in numbers])


def disturbed(vector: tuple[float, ...]) -> tuple[float, ...]:
    """Return the vector as concurrent embed calls spoil it: of length 1 still, and wrong."""
    return tuple(reversed(vector))


def formatted_text(text: str, schema: JSON) -> str:
    """Return JSON that fits `schema` (`"json"`, or a JSON schema in its simple parts)."""
    value: JSON = {"answer": text} if not isinstance(schema, dict) else _instance(text, schema)
    return orjson.dumps(value).decode()


def _instance(text: str, schema: Mapping[str, JSON]) -> JSON:
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    match schema.get("type"):
        case "object":
            return _object(text, schema.get("properties"))
        case "array":
            items = schema.get("items")
            return [_instance(text, items)] if isinstance(items, dict) else []
        case str(kind) if kind in _SCALARS:
            return _SCALARS[kind]
        case _:
            return text


def _object(text: str, properties: JSON) -> JSON:
    if not isinstance(properties, dict):
        return {}
    return {
        name: _instance(text, part) if isinstance(part, dict) else None
        for name, part in properties.items()
    }

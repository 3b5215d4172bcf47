"""A request for embeddings in OpenAI's form, as the data of an embedding job."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from worker_core.engine import JSON
from worker_core.openai_batch.members import at_least, read_body
from worker_core.request_fields import not_empty

__all__ = ["embeddings_data"]


def _texts(_: object, field: attrs.Attribute[Any], value: str | tuple[str, ...]) -> None:
    if not value or (isinstance(value, tuple) and "" in value):
        raise ValueError(f"'{field.name}' must not be empty, nor any text in it")


@attrs.frozen(kw_only=True)
class _EmbeddingsBody:
    model: str = attrs.field(validator=not_empty)
    input: str | tuple[str, ...] = attrs.field(validator=_texts)
    dimensions: int | None = attrs.field(default=None, validator=at_least(1))
    encoding_format: Literal["float", "base64"] | None = None
    user: JSON = None


def embeddings_data(body: JSON) -> dict[str, JSON]:
    """Return the job's data; raises `InvalidRequest`. Lists of token numbers are refused."""
    read = read_body(body, _EmbeddingsBody)
    texts: JSON = read.input if isinstance(read.input, str) else list(read.input)
    # There a text that is too long is an error, and never cut.
    data: dict[str, JSON] = {"model": read.model, "input": texts, "truncate": False}
    if read.dimensions is not None:
        data["dimensions"] = read.dimensions
    if read.encoding_format is not None:
        data["encoding_format"] = read.encoding_format
    return data

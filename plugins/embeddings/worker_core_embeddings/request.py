"""An embedding job's data, and the calls to the engine that it amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

import attrs

from worker_core import JSON, EmbedCall
from worker_core.request_fields import a_time_limit, not_empty, read_time_limit
from worker_core.strict_json import dumps

__all__ = ["CallKind", "EmbeddingsRequest"]


def _texts(_: object, field: attrs.Attribute[Any], value: str | tuple[str, ...]) -> None:
    # Ollama takes an empty text for the wish to load the model, and answers without a vector.
    if not value:
        raise ValueError(f"'{field.name}' must not be empty")
    empty = [index for index, text in enumerate(value) if not text]
    if empty:
        raise ValueError(f"'{field.name}' holds an empty text at {_some(empty)}")


def _some(indexes: list[int]) -> str:
    shown = ", ".join(map(str, indexes[:5]))
    return f"{shown} and {len(indexes) - 5} more places" if len(indexes) > 5 else shown


@attrs.frozen(kw_only=True)
class CallKind:
    """What two inputs must have in common to go into one call."""

    model: str
    dimensions: int | None
    truncate: bool
    keep_alive: float | str | None
    options_json: bytes
    """With sorted keys, so that equal options are equal here."""
    options: Mapping[str, JSON] = attrs.field(eq=False)

    def call(self, texts: tuple[str, ...]) -> EmbedCall:
        """Return the call for these texts."""
        return EmbedCall(
            model=self.model,
            input=texts,
            truncate=self.truncate,
            dimensions=self.dimensions,
            options=self.options,
            keep_alive=self.keep_alive,
        )


@attrs.frozen(kw_only=True)
class EmbeddingsRequest:
    """The data of an embedding job: Ollama's `/api/embed`, and OpenAI's `encoding_format`."""

    model: str = attrs.field(validator=not_empty)
    input: str | tuple[str, ...] = attrs.field(validator=_texts)
    dimensions: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )
    truncate: bool = True
    """Whether a text longer than the model's context is cut; it fails the job otherwise."""
    encoding_format: Literal["float", "base64"] = "float"
    """Numbers, or base64 of little-endian float32, which is half as long or less."""
    options: dict[str, JSON] = attrs.field(factory=dict)
    keep_alive: float | str | None = None
    timeout: float | str | None = attrs.field(default=None, validator=a_time_limit)
    """Milliseconds, or a duration such as "30s"; never more than the worker allows."""
    metadata: dict[str, JSON] = attrs.field(factory=dict)
    """The application's own; only `tenant` is looked at, which keeps kept answers apart."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The inputs, one or many."""
        return (self.input,) if isinstance(self.input, str) else self.input

    @property
    def time_limit(self) -> timedelta | None:
        """How long the job wants to run at the most."""
        return read_time_limit(self.timeout)

    @property
    def kind(self) -> CallKind:
        """What its inputs' calls have in common with those of other jobs."""
        options = dict(sorted(self.options.items()))
        return CallKind(
            model=self.model,
            dimensions=self.dimensions,
            truncate=self.truncate,
            keep_alive=self.keep_alive,
            options_json=dumps(options),
            options=options,
        )

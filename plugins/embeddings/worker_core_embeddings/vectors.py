"""Vectors: whether they are what was asked for, and how they are written."""

from __future__ import annotations

import math
import struct
from base64 import b64encode
from typing import TYPE_CHECKING

from worker_core import EngineError, FailureClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Vector", "as_base64", "check_vectors", "dimension_of"]

Vector = tuple[float, ...]


def check_vectors(
    vectors: Sequence[Vector], *, count: int, dimensions: int | None, model: str
) -> None:
    """Raise `EngineError` unless there are `count` finite vectors of one dimension, the one asked."""
    if len(vectors) != count:
        raise _wrong(f"{model!r} gave {len(vectors)} vectors for {count} inputs")
    found = dimension_of(vectors, model)
    if dimensions is not None and found != dimensions:
        raise EngineError(
            FailureClass.UNSUPPORTED,
            f"{model!r} gives vectors of {found} dimensions, not of the {dimensions} asked for",
        )
    for index, vector in enumerate(vectors):
        if not all(map(math.isfinite, vector)):
            raise _wrong(f"{model!r} gave a vector that is not of finite numbers ({index})")


def dimension_of(vectors: Iterable[Vector], model: str) -> int:
    """Return the one dimension of all vectors; raises `EngineError` where they have several."""
    found = sorted({len(vector) for vector in vectors})
    if len(found) != 1 or not found[0]:
        raise _wrong(f"{model!r} gave vectors of different dimensions, or empty ones: {found}")
    return found[0]


def as_base64(vector: Vector) -> str:
    """Write a vector as OpenAI does: base64 of little-endian float32; raises `EngineError`."""
    try:
        return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
    except OverflowError:
        raise _wrong(
            "a number of a vector is beyond float32: ask for encoding_format float"
        ) from None


def _wrong(what: str) -> EngineError:
    return EngineError(FailureClass.INCOMPLETE, what)

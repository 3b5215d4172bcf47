"""Vectors: what is refused, and how they are written."""

from __future__ import annotations

import base64
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_core_embeddings.vectors import as_base64, check_vectors, dimension_of

from worker_core import EngineError, FailureClass

GOOD = ((0.5, 0.5), (1.0, 0.0))


def test_vectors_that_are_what_was_asked_for_pass() -> None:
    check_vectors(GOOD, count=2, dimensions=None, model="m")
    check_vectors(GOOD, count=2, dimensions=2, model="m")
    assert dimension_of(GOOD, "m") == 2


@pytest.mark.parametrize(
    ("vectors", "dimensions", "failure", "said"),
    [
        (GOOD[:1], None, FailureClass.INCOMPLETE, "'m' gave 1 vectors for 2 inputs"),
        (((1.0,), (1.0, 0.0)), None, FailureClass.INCOMPLETE, "different dimensions"),
        (((), ()), None, FailureClass.INCOMPLETE, "empty ones"),
        (((1.0,), (math.nan,)), None, FailureClass.INCOMPLETE, "finite numbers (1)"),
        (((math.inf,), (1.0,)), None, FailureClass.INCOMPLETE, "finite numbers (0)"),
        (GOOD, 3, FailureClass.UNSUPPORTED, "vectors of 2 dimensions, not of the 3 asked for"),
    ],
)
def test_a_wrong_one_is_an_engine_error_that_says_so(
    vectors: tuple[tuple[float, ...], ...],
    dimensions: int | None,
    failure: FailureClass,
    said: str,
) -> None:
    with pytest.raises(EngineError) as caught:
        check_vectors(vectors, count=2, dimensions=dimensions, model="m")
    assert caught.value.failure is failure
    assert said in str(caught.value)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_base64_holds_the_numbers_as_openai_writes_them(numbers: list[float]) -> None:
    written = as_base64(tuple(numbers))
    assert list(struct.unpack(f"<{len(numbers)}f", base64.b64decode(written))) == numbers


def test_a_number_beyond_float32_is_not_written_as_another() -> None:
    with pytest.raises(EngineError, match="beyond float32"):
        as_base64((1e300,))

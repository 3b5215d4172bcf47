"""Wire data to attrs classes: strictly, with every fault named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_core.engine import JSON
from worker_core.structure import InvalidData, kind_of, structure, unknown_members


def _positive(_: object, field: attrs.Attribute[Any], value: float) -> None:
    if value <= 0:
        raise ValueError(f"'{field.name}' must be positive")


@attrs.frozen
class Inner:
    role: Literal["user", "system"]
    weight: float = attrs.field(default=1.0, validator=_positive)
    share: float = attrs.field(default=1.0, validator=_positive)


@attrs.frozen(kw_only=True)
class Shape:
    name: str
    count: int = 0
    ratio: float = 0.0
    on: bool = False
    wait: timedelta = timedelta()
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    words: list[str] = attrs.field(factory=list)
    by_name: dict[str, Inner] = attrs.field(factory=dict)
    limits: Mapping[str, int] = attrs.field(factory=dict)
    stop: str | tuple[str, ...] | None = None
    number: int | str | None = None
    anything: JSON = None
    table: dict[str, dict[str, list[int]]] = attrs.field(factory=dict)


def faults_of(data: object, shape: type = Shape) -> dict[str, str]:
    with pytest.raises(InvalidData) as caught:
        structure(data, shape)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_data_of_the_right_shape_is_taken() -> None:
    data = {
        "name": "n",
        "count": 3.0,
        "ratio": 2,
        "on": True,
        "wait": timedelta(seconds=1),
        "inner": {"role": "user"},
        "inners": [{"role": "system", "weight": 2}],
        "words": ["a"],
        "by_name": {"x": {"role": "user"}},
        "limits": {"a": 1},
        "stop": ["x", "y"],
        "number": "7",
        "anything": {"deep": [None, 1.5]},
        "table": {"a": {"b": [1]}},
    }
    assert structure(data, Shape) == Shape(
        name="n",
        count=3,
        ratio=2,
        on=True,
        wait=timedelta(seconds=1),
        inner=Inner("user"),
        inners=(Inner("system", 2),),
        words=["a"],
        by_name={"x": Inner("user")},
        limits={"a": 1},
        stop=("x", "y"),
        number="7",
        anything={"deep": [None, 1.5]},
        table={"a": {"b": [1]}},
    )


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("name", 3, "expected text, found a number"),
        ("name", None, "expected text, found null"),
        ("count", "3", "expected a whole number, found text"),
        ("count", True, "expected a whole number, found true or false"),
        ("count", 3.5, "expected a whole number, found a number"),
        ("ratio", "1.5", "expected a number, found text"),
        ("ratio", False, "expected a number, found true or false"),
        ("on", 1, "expected true or false, found a number"),
        ("on", "true", "expected true or false, found text"),
        ("wait", 5, "expected a duration, found a number"),
        ("inner", [], "expected an object, found a list"),
        ("inners", "ab", "expected a list, found text"),
        ("inners", {"0": 1}, "expected a list, found an object"),
        ("words", {"a"}, "expected a list, found set"),
        ("by_name", [], "expected an object, found a list"),
        ("limits", "x", "expected an object, found text"),
        ("stop", 3, "expected text or a list, found a number"),
        ("number", 1.5, "expected a whole number or text, found a number"),
        ("number", {}, "expected a whole number or text, found an object"),
    ],
)
def test_nothing_is_converted_silently(field: str, value: object, expected: str) -> None:
    assert faults_of({"name": "n", field: value}) == {field: expected}


def test_every_fault_is_named_by_its_path() -> None:
    data = {
        "count": "x",
        "inner": {"role": "nobody", "weight": 0, "share": -1},
        "inners": [{"role": "user"}, {}, {"role": 3, "weight": "x"}, None],
        "words": ["a", 1, "b", None],
        "by_name": {"good": {"role": "user"}, "bad": {"role": "user", "share": 0}},
        "limits": {"a.b": "1"},
        "stop": ["a", 2],
        "table": {"a": {"b": [1, "2"]}},
    }
    assert faults_of(data) == {
        "name": "missing",
        "count": "expected a whole number, found text",
        "inner.role": "expected one of 'user', 'system', found 'nobody'",
        "inner.weight": "must be positive",
        "inner.share": "must be positive",
        "inners[1].role": "missing",
        "inners[2].role": "expected one of 'user', 'system', found a number",
        "inners[2].weight": "expected a number, found text",
        "inners[3]": "expected an object, found null",
        "words[1]": "expected text, found a number",
        "words[3]": "expected text, found null",
        "by_name.bad.share": "must be positive",
        "limits.a.b": "expected a whole number, found text",
        "stop[1]": "expected text, found a number",
        "table.a.b[1]": "expected a whole number, found text",
    }


@pytest.mark.parametrize("data", [None, [], "x", 3, True])
def test_what_is_no_object_is_one_fault_of_the_whole(data: object) -> None:
    assert faults_of(data) == {"": f"expected an object, found {kind_of(data)}"}


def test_no_message_quotes_long_data() -> None:
    (message,) = faults_of({"name": "n", "inner": {"role": "secret " * 20}}).values()
    assert "secret" not in message


def test_unknown_members_are_left_out_and_can_be_asked_for() -> None:
    data = {"role": "user", "rolle": 1, "extra": 2}
    assert structure(data, Inner) == Inner("user")
    assert unknown_members(data, Inner) == ["rolle", "extra"]
    assert unknown_members([1], Inner) == []


def test_a_validator_that_raises_something_else_is_a_fault_too() -> None:
    def odd(_: object, __: object, ___: object) -> None:
        raise RuntimeError("odd")

    @attrs.define
    class Odd:
        value: int = attrs.field(validator=odd)

    (message,) = faults_of({"value": 1}, Odd).values()
    assert "odd" in message


def test_a_fault_of_the_whole_object_is_reported() -> None:
    @attrs.frozen
    class Pair:
        low: int
        high: int

        def __attrs_post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low must not be over high")

    assert faults_of({"low": 2, "high": 1}, Pair) == {"": "low must not be over high"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([f.name for f in attrs.fields(Shape)]) | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values)
def test_any_json_is_taken_or_refused_with_faults(data: object) -> None:
    try:
        taken = structure(data, Shape)
    except InvalidData as error:
        faults = error.faults
    else:
        attrs.validate(taken)
        return
    assert faults
    assert all(fault.message for fault in faults)

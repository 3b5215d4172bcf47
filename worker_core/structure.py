"""Wire data to frozen attrs classes, strictly, with every fault named by its path.

One place where outside data gets a shape: a job's data and the settings both come through here.
Nothing is converted silently: `"3"` is no number, `1` is no truth value.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from cattrs import Converter, transform_error
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    IterableValidationError,
    IterableValidationNote,
)

from worker_core.errors import Fault
from worker_core.strict_json import item_path, key_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["InvalidData", "kind_of", "make_converter", "structure"]

T = TypeVar("T")


class InvalidData(ValueError):
    """Data that does not have the shape asked for; `faults` holds every fault."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(map(str, faults)))


def structure(data: object, shape: type[T], *, converter: Converter | None = None) -> T:
    """Return `data` as a `shape`, or raise `InvalidData` with every fault.

    Members that `shape` does not have are left out; `unknown_members` names them.
    """
    hook = (converter or _default_converter()).get_structure_hook(shape)
    try:
        built: T = hook(data, shape)
    except Exception as error:  # noqa: BLE001  # whatever a hook raised is a fault of the data
        raise InvalidData(list(_faults(error, ""))) from None
    return built


def unknown_members(data: object, shape: type) -> list[str]:
    """Return the names in `data` that the attrs class `shape` has no field for."""
    if not isinstance(data, dict):
        return []
    known = _names_of(shape)
    return [name for name in data if name not in known]


@cache
def _names_of(shape: type) -> frozenset[str]:
    return frozenset(field.name for field in attrs.fields(shape))


def kind_of(value: object) -> str:
    """Say what a value of JSON or TOML is, in words for an error message; never its contents."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "an object"
        case _:
            return type(value).__name__


@cache
def _default_converter() -> Converter:
    return make_converter()


def make_converter() -> Converter:
    """Return a converter whose every hook is strict; callers may add hooks of their own."""
    converter = Converter(omit_if_default=False)
    for primitive, words in (
        (str, "text"),
        (bool, "true or false"),
        (timedelta, "a duration"),
    ):
        converter.register_structure_hook(primitive, _exactly(primitive, words))
    converter.register_structure_hook(int, _structure_int)
    converter.register_structure_hook(float, _structure_float)
    converter.register_structure_hook_factory(
        _is_union, lambda shape: _union_hook(converter, shape)
    )
    converter.register_structure_hook_factory(_is_opaque, lambda _: lambda value, _: value)
    converter.register_structure_hook_factory(_is_sequence, lambda s: _sequence_hook(converter, s))
    converter.register_structure_hook_factory(_is_mapping, lambda s: _mapping_hook(converter, s))
    converter.register_structure_hook_factory(_is_literal, _literal_hook)
    converter.register_structure_hook_factory(
        attrs.has, lambda shape: _attrs_hook(converter, shape)
    )
    return converter


def _exactly(primitive: type[T], words: str) -> Callable[[object, object], T]:
    def hook(value: object, _: object) -> T:
        if isinstance(value, primitive):
            return value
        raise TypeError(f"expected {words}, found {kind_of(value)}")

    return hook


def _structure_int(value: object, _: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        # 3.0 comes from Lua and from JavaScript, where it is the same number as 3.
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise TypeError(f"expected a whole number, found {kind_of(value)}")
    return value


def _structure_float(value: object, _: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, found {kind_of(value)}")
    return value


def _is_union(shape: Any) -> bool:
    return typing.get_origin(shape) is typing.Union or type(shape).__name__ == "UnionType"


def _is_opaque(shape: Any) -> bool:
    """Tell whether a shape stands for any JSON at all; `engine.JSON` is `Any` when the code runs."""
    return shape is Any or shape is object


def _is_literal(shape: Any) -> bool:
    return typing.get_origin(shape) is typing.Literal


def _is_sequence(shape: Any) -> bool:
    origin = typing.get_origin(shape)
    return origin in {list, tuple} and (
        origin is list or typing.get_args(shape)[-1:] == (Ellipsis,)
    )


def _is_mapping(shape: Any) -> bool:
    return typing.get_origin(shape) in {dict, Mapping}


def _literal_hook(shape: Any) -> Callable[[object, object], object]:
    choices = typing.get_args(shape)

    def hook(value: object, _: object) -> object:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        wanted = ", ".join(repr(choice) for choice in choices)
        found = repr(value) if isinstance(value, str) and len(value) <= 40 else kind_of(value)
        raise ValueError(f"expected one of {wanted}, found {found}")

    return hook


def _union_hook(converter: Converter, shape: Any) -> Callable[[object, object], object]:
    members = typing.get_args(shape)

    def hook(value: object, _: object) -> object:
        if value is None and type(None) in members:
            return None
        errors = []
        for member in members:
            if member is type(None):
                continue
            try:
                return converter.structure(value, member)
            except Exception as error:  # noqa: BLE001  # kept: the last resort below reports it
                errors.append(error)
        # A fault inside a member (an object, a list) says more than "none of these".
        deep = [error for error in errors if isinstance(error, ExceptionGroup)]
        if len(errors) == 1 or deep:
            raise (deep or errors)[0]
        wanted = " or ".join(dict.fromkeys(_expected(error) for error in errors))
        raise TypeError(f"expected {wanted}, found {kind_of(value)}")

    return hook


def _expected(error: Exception) -> str:
    text = str(error)
    return text.removeprefix("expected ").partition(", found ")[0]


def _sequence_hook(converter: Converter, shape: Any) -> Callable[[object, object], object]:
    item_shape = typing.get_args(shape)[0]
    build = typing.get_origin(shape)
    assert build is not None

    def hook(value: object, _: object) -> object:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"expected a list, found {kind_of(value)}")
        items, errors = [], []
        for index, item in enumerate(value):
            try:
                items.append(converter.structure(item, item_shape))
            except Exception as error:  # noqa: BLE001  # collected: every fault is reported
                error.add_note(IterableValidationNote("item", index, item_shape))
                errors.append(error)
        if errors:
            raise IterableValidationError("list", errors, build)
        return build(items)

    return hook


def _mapping_hook(converter: Converter, shape: Any) -> Callable[[object, object], object]:
    item_shape = typing.get_args(shape)[1]

    def hook(value: object, _: object) -> object:
        if not isinstance(value, Mapping):
            raise TypeError(f"expected an object, found {kind_of(value)}")
        members, errors = {}, []
        for name, item in value.items():
            try:
                members[name] = converter.structure(item, item_shape)
            except Exception as error:  # noqa: BLE001  # collected: every fault is reported
                error.add_note(IterableValidationNote("member", name, item_shape))
                errors.append(error)
        if errors:
            raise IterableValidationError("object", errors, dict)
        return members

    return hook


def _attrs_hook(converter: Converter, shape: Any) -> Callable[[object, object], object]:
    """Structure an attrs class and run every field's validator.

    cattrs' own hook leaves validators to `__init__`, which stops at the first: then a user mends
    one fault and is shown the next. Here all are collected.
    """
    attrs.resolve_types(shape)
    fields = [field for field in attrs.fields(shape) if field.init]

    def hook(value: object, _: object) -> object:
        # A dictionary is what almost always comes, and asking an ABC takes ten times as long.
        if type(value) is not dict:
            if isinstance(value, shape):
                return value
            if not isinstance(value, Mapping):
                raise TypeError(f"expected an object, found {kind_of(value)}")
        arguments: dict[str, object] = {}
        errors: list[Exception] = []
        for field in fields:
            try:
                if field.name in value:
                    built = converter.structure(value[field.name], field.type)
                    if field.validator is not None:
                        field.validator(None, field, built)
                    arguments[field.alias] = built
                elif field.default is attrs.NOTHING:
                    raise KeyError(field.name)
            except Exception as error:  # noqa: BLE001  # collected: every fault is reported
                error.add_note(AttributeValidationNote("field", field.name, field.type))
                errors.append(error)
        if errors:
            raise ClassValidationError(shape.__name__, errors, shape)
        return shape(**arguments)

    return hook


def _faults(error: Exception, path: str) -> Iterator[Fault]:
    """Flatten cattrs' exception groups; the place of each error is in its note."""
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            assert isinstance(inner, Exception)
            yield from _faults(inner, _place_of(inner, path))
    elif isinstance(error, KeyError):
        yield Fault(path, "missing")
    elif isinstance(error, (TypeError, ValueError)):
        yield Fault(path, _without_own_name(str(error), path))
    else:
        yield Fault(path, "; ".join(transform_error(error)))


def _place_of(error: Exception, path: str) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return key_path(path, note.name)
        if isinstance(note, IterableValidationNote):
            index = note.index
            return item_path(path, index) if isinstance(index, int) else key_path(path, index)
    return path


def _without_own_name(message: str, path: str) -> str:
    """Cut the field's name off an attrs validator's message: the path says it already."""
    return message.removeprefix(f"'{path.rpartition('.')[2]}' ")

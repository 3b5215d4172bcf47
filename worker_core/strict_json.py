"""JSON that every client of a queue can read: strict both ways, every fault named by its path.

Node's `QueueEvents` stops for good on one value that is not JSON, orjson reads integers over 64
bits as floats and writes NaN as null, and half an emoji (a lone surrogate) cannot be sent at all.
So reading refuses what cannot be kept exactly, and writing never puts out what was not meant.
"""

from __future__ import annotations

import enum
import json
import math
import re
from typing import TYPE_CHECKING

import orjson

from worker_core.errors import Fault, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_core.engine import JSON

__all__ = ["MAX_DEPTH", "Unpublishable", "dumps", "item_path", "key_path", "loads"]

MAX_DEPTH = 128
"""How deep arrays and objects may nest; far over any use, far under what breaks a JSON library."""

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_LONGEST_INT = 22
"""More digits than 64 bits need, the sign included."""
_LONG_DIGITS = 19
_LONG_NUMBER = re.compile(rb"\d{19}")


class Unpublishable(ValueError):
    """A value that strict JSON cannot carry; the message names the place."""


def key_path(path: str, key: str) -> str:
    """Return the path of an object's member: `options` and `seed` make `options.seed`."""
    return f"{path}.{key}" if path else key


def item_path(path: str, index: int | str) -> str:
    """Return the path of an array's item: `messages` and 2 make `messages[2]`."""
    return f"{path}[{index}]"


def loads(raw: bytes | str) -> JSON:
    """Read JSON, or raise `InvalidRequest` with every fault.

    Refused: what is not JSON, NaN and infinities, integers beyond 64 bits, lone surrogates,
    nesting over `MAX_DEPTH`.
    """
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    # Both tests only choose the path: a false alarm costs time, never a wrong answer.
    suspicious = len(data) >= _LONG_DIGITS and (
        data.count(b"[") + data.count(b"{") > MAX_DEPTH or _LONG_NUMBER.search(data) is not None
    )
    if not suspicious:
        try:
            value: JSON = orjson.loads(data)
        except orjson.JSONDecodeError:
            pass  # the slow way says what and where
        else:
            return value
    return _loads_naming_faults(data)


def _loads_naming_faults(data: bytes) -> JSON:
    """Read with the standard library, which keeps odd values, so that each can be named."""
    if _is_too_deep(data):
        raise InvalidRequest([Fault("", f"nested deeper than {MAX_DEPTH} levels")])
    try:
        # Decoded here: the library would guess UTF-16 and UTF-32, which no other client reads.
        value: JSON = json.loads(data.decode("utf-8", "surrogatepass"), parse_int=_parse_int)
    except UnicodeDecodeError:
        raise InvalidRequest([Fault("", "not JSON: not UTF-8 text")]) from None
    except ValueError as error:
        # `error` quotes no data, only a position.
        raise InvalidRequest([Fault("", f"not JSON: {error}")]) from None
    if faults := list(_faults_in(value, "")):
        raise InvalidRequest(faults)
    return value


def _parse_int(digits: str) -> int:
    # Beyond 64 bits all are refused alike; `int` itself refuses thousands of digits, namelessly.
    return int(digits[:_LONGEST_INT])


def _is_too_deep(data: bytes) -> bool:
    depth = 0
    inside_string = False
    for token in re.finditer(rb'\\.|["\[\]{}]', data, re.DOTALL):
        match token.group():
            case b'"':
                inside_string = not inside_string
            case b"[" | b"{" if not inside_string:
                depth += 1
                if depth > MAX_DEPTH:
                    return True
            case b"]" | b"}" if not inside_string:
                depth -= 1
            case _:
                pass
    return False


def dumps(value: object) -> bytes:
    """Write JSON; lone surrogates become U+FFFD; raise `Unpublishable` for what cannot be written."""
    if value is None:
        return b"null"
    try:
        written = _write(value)
    except (TypeError, RecursionError):
        _refuse_faults(value)
        try:
            written = _write(_without_surrogates(value))
        except (TypeError, RecursionError) as error:
            raise Unpublishable(f"not JSON: {error}") from None
    # orjson writes NaN as null: where there is a null at all, see whether somebody meant it.
    if b"null" in written:
        _refuse_faults(value)
    return written


def _write(value: object) -> bytes:
    # Dataclasses are refused: a NaN in one would not be found.
    return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def _refuse_faults(value: object) -> None:
    if fault := next(_faults_in(value, "", allow_surrogates=True), None):
        raise Unpublishable(str(fault))


def _faults_in(
    value: object, path: str, depth: int = 0, *, allow_surrogates: bool = False
) -> Iterator[Fault]:
    """Yield what strict JSON cannot carry."""
    match value:
        case bool() | None:
            return
        case int() if not _INT_MIN <= value <= _INT_MAX:
            yield Fault(path, "an integer beyond 64 bits")
        case float() if not math.isfinite(value):
            yield Fault(path, "not a finite number")
        case str() if not allow_surrogates and not _is_unicode(value):
            yield Fault(path, "text with half a character (a lone surrogate)")
        case list() | tuple() | dict() if depth >= MAX_DEPTH:
            yield Fault("", f"nested deeper than {MAX_DEPTH} levels")
        case list() | tuple():
            for index, item in enumerate(value):
                if isinstance(item, float) and math.isfinite(item):
                    continue  # vectors are long: nothing is built for each of their numbers
                yield from _faults_in(
                    item, item_path(path, index), depth + 1, allow_surrogates=allow_surrogates
                )
        case dict():
            for key, item in value.items():
                if not allow_surrogates and isinstance(key, str) and not _is_unicode(key):
                    yield Fault(path, "a name with half a character (a lone surrogate)")
                    continue
                yield from _faults_in(
                    item, key_path(path, str(key)), depth + 1, allow_surrogates=allow_surrogates
                )
        case enum.Enum():
            # orjson writes its value.
            yield from _faults_in(value.value, path, depth, allow_surrogates=allow_surrogates)
        case _:
            return


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_surrogates(value: object) -> object:
    match value:
        case str():
            # Two halves that meet make their character; a half alone makes U+FFFD.
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list() | tuple():
            return [_without_surrogates(item) for item in value]
        case dict():
            return {_without_surrogates(key): _without_surrogates(v) for key, v in value.items()}
        case _:
            return value

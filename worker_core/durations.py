"""Durations as people write them in a file: `300s`, `1m30s`, `250ms`."""

from __future__ import annotations

import re
from datetime import timedelta

__all__ = ["format_duration", "parse_duration"]

_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def parse_duration(text: str) -> timedelta:
    """Read a duration: numbers with units, largest first (`1h30m`); raise `ValueError` otherwise."""
    compact = text.strip().lower()
    parts = _PART.findall(compact)
    units = [unit for _, unit in parts]
    in_order = units == [unit for unit in _UNITS if unit in units]
    if not parts or not in_order or "".join(number + unit for number, unit in parts) != compact:
        raise ValueError(f"expected a duration such as '300s', '5m' or '250ms', found {text!r}")
    try:
        return sum((float(number) * _UNITS[unit] for number, unit in parts), timedelta())
    except OverflowError:
        raise ValueError(f"a duration too long to be meant: {text!r}") from None


def format_duration(duration: timedelta) -> str:
    """Write a duration so that `parse_duration` reads the same: `90s` becomes `1m30s`."""
    rest_ms = round(duration / timedelta(milliseconds=1))
    text = ""
    for unit, ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest_ms = divmod(rest_ms, ms)
        if count:
            text += f"{count}{unit}"
    return text or "0s"

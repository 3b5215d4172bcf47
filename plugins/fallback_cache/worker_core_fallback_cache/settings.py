"""Settings of the cache: `[plugins.fallback_cache]`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal

import attrs

from worker_core import setting
from worker_core.config import at_least

__all__ = ["FallbackCacheSettings"]


def _part_of_a_key(_: object, field: attrs.Attribute[str], value: str) -> None:
    if not re.fullmatch(r"[\w.-]+", value, re.ASCII):
        raise ValueError(f"'{field.name}' must be of letters, digits, dots and dashes: {value!r}")


def _long_enough(_: object, field: attrs.Attribute[timedelta], value: timedelta) -> None:
    if value < timedelta(seconds=1):
        raise ValueError(f"'{field.name}' must be 1s at least")


@attrs.frozen(kw_only=True)
class FallbackCacheSettings:
    """Which answers are kept, for how long, and when they are given again."""

    mode: Literal["fallback", "always"] = setting("fallback")
    """`fallback`: when the engine has failed; `always`: before it is asked."""
    temperature: Literal["zero", "all"] = setting("zero")
    """`zero`: only answers to requests that say temperature 0, which get the same one again
    anyway; `all`: every answer, so that the same question always has one answer."""
    ttl: timedelta = setting(timedelta(days=1), validator=_long_enough)
    """How long an answer is kept."""
    max_entries: int = setting(10_000, validator=at_least(1))
    """Of a namespace; those used least lately go first."""
    max_entry_bytes: int = setting(256 * 1024, validator=at_least(1))
    """Longer answers are not kept."""
    namespace: str = setting("default", validator=_part_of_a_key)
    """Workers with the same one share answers."""

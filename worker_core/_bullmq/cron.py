"""When a cron pattern is next due, as Node's `cron-parser` means it, for BullMQ's schedulers say it so.

The matching is CronSim's. Its dialect is Debian's cron, which differs in spelling, in what a step
makes of the two day fields, and at the change of the clocks; that is put right here. (croniter,
which the package `bullmq` pins at 2.0.7, is an hour off for weeks around a change of the clocks.)
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

__all__ = ["BadSchedule", "next_time_ms"]

_LONGEST_PATTERN = 1024
_DEFAULTS = ("0", "*", "*", "*", "*", "*")
"""What stands for the fields that a pattern leaves out, from the left: seconds first."""
_DAY_RANGES = {3: "1-31", 5: "0-7"}
_NAMED = {
    "": "0 * * * * *",
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
    "@minutely": "0 * * * * *",
    "@secondly": "* * * * * *",
    "@weekdays": "0 0 0 * * 1-5",
    "@weekends": "0 0 0 * * 0,6",
}
_FIXED_OFFSET = re.compile(r"utc([+-])(\d{1,2})(?::(\d{2}))?", re.IGNORECASE)


class BadSchedule(ValueError):
    """A scheduler's options from which no next time can be found; the message says why."""


def next_time_ms(pattern: str, after_ms: int, tz: str | None = None) -> int | None:
    """Return when `pattern` is next due, strictly after a time, in ms since the epoch.

    Without `tz` it is this machine's time zone, as in Node. `None`: never again. Raises
    `BadSchedule` for what is no pattern and no time zone.
    """
    zone = _zone(tz)
    spelled = _in_cronsims_words(pattern)
    try:
        now = datetime.fromtimestamp(after_ms // 1000, zone)
        every_hour = CronSim(spelled, now)
        if len(every_hour.hours) == 24:
            # By the clock of the world: an hour that comes twice is served twice.
            return _ms(next(every_hour))
        # By the clock on the wall, where an hour may come twice, and is served once, or never, and
        # is served an hour later: what `fold=0` means for both.
        for on_the_wall in CronSim(spelled, now.replace(tzinfo=None)):
            found_ms = _ms(on_the_wall.replace(tzinfo=zone))
            if found_ms > after_ms:
                return found_ms
    except StopIteration:
        return None
    except (CronSimError, OverflowError, ValueError, OSError) as error:
        raise BadSchedule(f"no cron pattern: {pattern[:80]!r}: {error}") from None
    return None


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


@lru_cache(maxsize=256)
def _in_cronsims_words(pattern: str) -> str:
    if len(pattern) > _LONGEST_PATTERN:
        raise BadSchedule(f"no cron pattern: longer than {_LONGEST_PATTERN} characters")
    fields = _NAMED.get(pattern, pattern).replace("?", "*").split()
    if not 0 < len(fields) <= len(_DEFAULTS):
        raise BadSchedule(f"no cron pattern: {pattern[:80]!r}: expected up to six fields")
    fields = [*_DEFAULTS[: len(_DEFAULTS) - len(fields)], *fields]
    for place, every in _DAY_RANGES.items():
        # For CronSim a field that begins with a star joins both days by "and"; here only the star
        # alone does: `*/2` is a restriction like any other, and restrictions are joined by "or".
        if fields[place] != "*":
            fields[place] = fields[place].replace("*", every)
    return " ".join(fields)


@lru_cache(maxsize=64)
def _zone(tz: str | None) -> tzinfo:
    if not tz or tz.lower() in {"local", "system", "default"}:
        return _this_machines_zone()
    if tz.lower() in {"utc", "gmt"}:
        return UTC
    if fixed := _FIXED_OFFSET.fullmatch(tz):
        sign, hours, minutes = fixed.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
        return timezone(-offset if sign == "-" else offset)
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    # Node takes names in any case.
    for name in available_timezones():
        if name.lower() == tz.lower():
            return ZoneInfo(name)
    raise BadSchedule(f"no time zone: {tz[:80]!r}")


def _this_machines_zone() -> tzinfo:
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC

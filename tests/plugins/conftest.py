"""Fixtures of the plugin contract's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugins.support import Site

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A folder on the import path, for distributions that a test makes up."""
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder, monkeypatch)

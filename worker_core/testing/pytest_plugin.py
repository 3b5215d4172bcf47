"""What pytest loads wherever worker-core is installed: the fixtures, where their extras are there."""

from __future__ import annotations

from importlib.util import find_spec

_EXTRAS = ("h11", "pytest_trio")

# An application that installs worker-core without [testing] has pytest runs of its own.
pytest_plugins = (
    ["worker_core.testing.fixtures"] if all(find_spec(name) for name in _EXTRAS) else []
)

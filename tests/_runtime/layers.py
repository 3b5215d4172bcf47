"""Sources of settings, laid over one another in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from worker_core._runtime.configuration import Configuration, load
from worker_core._runtime.sources import Layers
from worker_core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker_core._runtime.plugins import PluginClass

__all__ = ["configure", "faults_of", "shown"]


def configure(
    file: Mapping[str, Any] | None = None,
    *,
    dotenv: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    extra: Sequence[PluginClass] = (),
) -> Configuration:
    """Load a configuration; raises `ConfigError` with every fault."""
    layers = Layers(
        file=file or {},
        file_name="worker.toml",
        dotenv=dotenv or {},
        environ=environ or {},
        flags=flags or {},
    )
    return load(layers, [], extra=extra)


def faults_of(*args: Any, **options: Any) -> dict[str, Fault]:
    """Return the faults of a configuration that is refused, by their paths."""
    with pytest.raises(ConfigError) as caught:
        configure(*args, **options)
    found = {fault.path: fault for fault in caught.value.faults}
    assert len(found) == len(caught.value.faults)
    return found


def shown(configuration: Configuration) -> dict[str, tuple[object, str]]:
    """Return the effective settings, by their paths, with their sources."""
    return {one.path: (one.value, one.source) for one in configuration.shown}

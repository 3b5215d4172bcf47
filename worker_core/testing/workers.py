"""A worker inside a test's own event loop."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker_core._runtime.configuration import Configuration, load
from worker_core._runtime.plugins import PluginClass, PluginInfo
from worker_core._runtime.sources import Layers
from worker_core._runtime.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyio.abc import TaskStatus

__all__ = ["build_worker", "configuration_of", "plugin_under_test", "run_worker"]

_NO_DOTENV = Path("/nonexistent/.env")


def configuration_of(
    settings: Mapping[str, Any], plugins: Sequence[PluginClass] = ()
) -> Configuration:
    """Return a configuration made of a file's contents, given as a mapping, and nothing else.

    `plugins` are enabled beside those that `settings` names, without being installed.
    """
    layers, faults = Layers.read(None, flags={}, environ={}, dotenv_path=_NO_DOTENV)
    laid = Layers(file=dict(settings), file_name="test", dotenv={}, environ={}, flags=layers.flags)
    return load(laid, faults, extra=plugins)


def plugin_under_test(name: str, cls: type[Any]) -> PluginClass:
    """Wrap a plugin class that no distribution brings, so that a test can enable it."""
    entry_point = EntryPoint(name, f"{cls.__module__}:{cls.__qualname__}", "worker_core.plugins")
    return PluginClass(PluginInfo(name, entry_point), cls, getattr(cls, "Settings", None))


def build_worker(settings: Mapping[str, Any], plugins: Sequence[PluginClass] = ()) -> Worker:
    """Return a worker of these settings, not yet running: `await tasks.start(run_worker, worker)`."""
    configuration = configuration_of(settings, plugins)
    return Worker(configuration.core, configuration.compose())


async def run_worker(worker: Worker, *, task_status: TaskStatus[None]) -> None:
    """Run a worker in a task group; `start` returns when it claims."""
    await worker.run(task_status=task_status)

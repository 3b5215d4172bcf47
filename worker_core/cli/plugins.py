"""`worker-core plugins`: what is installed."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import click

from worker_core._runtime.plugins import find_plugins, import_plugin
from worker_core._runtime.sources import Layers
from worker_core.cli.options import config_options, plugin_names, print_table
from worker_core.config import WorkerSettings
from worker_core.errors import PluginError

__all__ = ["command"]


@click.group("plugins")
def command() -> None:
    """List plugins."""


@command.command("list")
@config_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_plugins(
    config: Path | None,
    plugins: str | None,
    engine: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """List installed plugins: name, distribution, version, whether enabled, hooks.

    Hooks are shown for enabled plugins: others are never imported.
    """
    # Where the queues are makes no difference here; the option is there as for every command.
    del redis_url
    enabled = _enabled(config, plugins, engine)
    rows = [
        _Row(info.name, info.distribution, info.version, name in enabled, *_hooks(name, enabled))
        for name, infos in find_plugins().items()
        for info in infos
    ]
    missing = sorted(enabled - {row.name for row in rows})
    rows += [_Row(name, "", "", enabled=True, fault="not installed") for name in missing]
    if as_json:
        click.echo(json.dumps([attrs.asdict(row) for row in rows], indent=2))
        return
    print_table(
        ("name", "distribution", "version", "enabled", "hooks"), [row.cells() for row in rows]
    )


@attrs.frozen
class _Row:
    name: str
    distribution: str
    version: str
    enabled: bool
    hooks: tuple[str, ...] = ()
    fault: str | None = None

    def cells(self) -> tuple[str, ...]:
        """What people see of it."""
        shown = self.fault or ", ".join(self.hooks)
        return (self.name, self.distribution, self.version, "yes" if self.enabled else "no", shown)


def _enabled(config: Path | None, plugins: str | None, engine: str | None) -> set[str]:
    """Return the enabled names; a configuration with faults still lists what it enables."""
    flags = {
        "worker.plugins": plugin_names(plugins),
        "worker.engine": engine,
    }
    layers, faults = Layers.read(config, flags=flags)
    values = layers.table("worker", WorkerSettings, faults).values
    names = values.get("plugins", ())
    wanted = {str(name).strip() for name in names} if isinstance(names, list | tuple) else set()
    engine_name = values.get("engine", WorkerSettings().engine)
    return wanted | ({str(engine_name)} if wanted and engine_name not in {None, "none"} else set())


def _hooks(name: str, enabled: set[str]) -> tuple[tuple[str, ...], str | None]:
    if name not in enabled:
        return (), None
    try:
        return tuple(import_plugin(name).hooks()), None
    except PluginError as error:
        return (), str(error)

"""What several commands share: how they are told of a configuration, and how they refuse one."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from worker_core.durations import parse_duration
from worker_core.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core._runtime.configuration import Configuration

__all__ = [
    "EXIT_FAILED",
    "EXIT_REFUSED",
    "Duration",
    "config_options",
    "fail",
    "load_configuration",
    "refuse",
]

EXIT_FAILED = 1
EXIT_REFUSED = 2

F = TypeVar("F", bound="Callable[..., Any]")


def config_options(command: F) -> F:
    """Add the options that choose a configuration."""
    for option in (
        click.option("--redis-url", help="Where the queues are; overrides [redis] url."),
        click.option("--engine", help="The engine plugin, or 'none'; overrides [worker] engine."),
        click.option("--plugins", help="Enable these plugins, a,b,c; replaces [worker] plugins."),
        click.option(
            "--config",
            "config",
            type=click.Path(path_type=Path, dir_okay=False),
            help="A TOML file.",
        ),
    ):
        command = option(command)
    return command


def load_configuration(
    config: Path | None, plugins: str | None, engine: str | None, redis_url: str | None
) -> Configuration:
    """Return the configuration that the options amount to, or end the command with every fault."""
    # Commands that need no configuration import none of this.
    from worker_core._runtime.configuration import load  # noqa: PLC0415
    from worker_core._runtime.sources import Layers  # noqa: PLC0415

    flags: dict[str, object] = {
        "worker.plugins": _names(plugins),
        "worker.engine": engine,
        "redis.url": redis_url,
    }
    layers, faults = Layers.read(config, flags=flags)
    try:
        return load(layers, faults)
    except (ConfigError, PluginError) as error:
        refuse(error)


def _names(plugins: str | None) -> list[str] | None:
    if plugins is None:
        return None
    return [name.strip() for name in plugins.split(",") if name.strip()]


class Duration(click.ParamType[timedelta]):
    """An option that takes a duration such as `5s`, of at least `shortest`."""

    name = "duration"

    def __init__(self, shortest: timedelta = timedelta()) -> None:
        self._shortest = shortest

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Read the text, or end the command with words."""
        if isinstance(value, timedelta):
            return value
        try:
            return max(parse_duration(str(value)), self._shortest)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def fail(message: str) -> NoReturn:
    """Say what went wrong and exit with 1."""
    click.echo(f"error: {message}", err=True)
    sys.exit(EXIT_FAILED)


def refuse(error: Exception) -> NoReturn:
    """Say what is wrong, a line for each fault, and exit with 2."""
    faults = error.faults if isinstance(error, ConfigError) else (error,)
    for fault in faults:
        click.echo(f"error: {fault}", err=True)
    if len(faults) > 1:
        click.echo(f"{len(faults)} faults; nothing was started", err=True)
    sys.exit(EXIT_REFUSED)

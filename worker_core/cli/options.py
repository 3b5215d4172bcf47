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
    from collections.abc import Callable, Iterable, Sequence

    from worker_core._runtime.configuration import Configuration

__all__ = [
    "EXIT_FAILED",
    "EXIT_REFUSED",
    "Duration",
    "config_options",
    "fail",
    "load_configuration",
    "plugin_names",
    "print_table",
    "refuse",
    "timeout_option",
]

EXIT_FAILED = 1
EXIT_REFUSED = 2

_UNBOUNDED = 1_000_000

F = TypeVar("F", bound="Callable[..., Any]")


def timeout_option(
    text: str, *, default: str | None = None, positive: bool = False
) -> Callable[[F], F]:
    """Return the option `--timeout`, a duration; without a `default` it may be left out."""
    return click.option(
        "--timeout",
        type=Duration(positive=positive),
        metavar="DURATION",
        default=default,
        show_default=default is not None,
        help=text,
    )


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
        "worker.plugins": plugin_names(plugins),
        "worker.engine": engine,
        "redis.url": redis_url,
    }
    layers, faults = Layers.read(config, flags=flags)
    try:
        return load(layers, faults)
    except (ConfigError, PluginError) as error:
        refuse(error)


def plugin_names(plugins: str | None) -> list[str] | None:
    """Return the names that `--plugins a,b` gives; `None` where it was not given."""
    if plugins is None:
        return None
    return [name.strip() for name in plugins.split(",") if name.strip()]


class Duration(click.ParamType[timedelta]):
    """An option that takes a duration such as `5s`.

    Less than `shortest` counts as `shortest`; where `positive`, nothing at all is refused.
    """

    name = "duration"

    def __init__(self, shortest: timedelta = timedelta(), *, positive: bool = False) -> None:
        self._shortest = shortest
        self._positive = positive

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Read the text, or end the command with words."""
        if isinstance(value, timedelta):
            return value
        try:
            duration = parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self._positive and not duration:
            self.fail("must be longer than 0s", param, ctx)
        return max(duration, self._shortest)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: as wide as the terminal, and off one as wide as it must be; nothing is cut."""
    # Only here: most commands draw nothing.
    from rich.console import Console  # noqa: PLC0415
    from rich.measure import Measurement  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table()
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # An address such as [fe80::1] is no markup.
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        unbounded = console.options.update(max_width=_UNBOUNDED)
        console.width = Measurement.get(console, unbounded, table).maximum
    console.print(table)


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

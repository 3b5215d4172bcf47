"""`worker-core config`: effective settings with their sources, and the check of a file."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import click

from worker_core._runtime.configuration import Shown
from worker_core.cli.options import config_options, load_configuration, print_table, refuse
from worker_core.durations import format_duration
from worker_core.errors import PluginError

__all__ = ["command"]


@click.group("config")
def command() -> None:
    """Show and check settings."""


@command.command()
@config_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(
    config: Path | None,
    plugins: str | None,
    engine: str | None,
    redis_url: str | None,
    as_json: bool,
) -> None:
    """Print the effective settings with each value's source, secrets masked."""
    configuration = load_configuration(config, plugins, engine, redis_url)
    if as_json:
        rows = [
            {"path": one.path, "value": _plain(one.value), "source": one.source}
            for one in configuration.shown
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    print_table(
        ("setting", "value", "source"),
        [(one.path, _text(one), one.source) for one in configuration.shown],
    )
    for notice in configuration.notices:
        click.echo(f"notice: {notice}", err=True)


@command.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def check(file: Path) -> None:
    """Check FILE as `run --config FILE` would; list every fault and exit with 2 if there are any."""
    configuration = load_configuration(file, None, None, None)
    try:
        composition = configuration.compose()
    except PluginError as error:
        refuse(error)
    for notice in configuration.notices:
        click.echo(f"notice: {notice}", err=True)
    queues = [spec.name for job_type in composition.job_types for spec in job_type.queues]
    click.echo(f"{file}: good; consumes {', '.join(queues) or 'no queue'}")


def _text(one: Shown) -> str:
    plain = _plain(one.value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _plain(value: object) -> Any:
    """Return a value as TOML would have it."""
    match value:
        case timedelta():
            return format_duration(value)
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
        case _ if attrs.has(type(value)):
            members = attrs.asdict(value, recurse=False)  # type: ignore[arg-type]  # has() said so
            return {name: _plain(item) for name, item in members.items() if item is not None}
        case _:
            return value

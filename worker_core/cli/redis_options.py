"""Where the queues are, as administration is told: no plugin is imported, no other setting read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from worker_core.cli.options import refuse
from worker_core.config import QueueSettings, RedisSettings
from worker_core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Place", "place_of", "redis_options"]

F = TypeVar("F", bound="Callable[..., Any]")


@attrs.frozen
class Place:
    """Where the queues are."""

    url: str
    password: str | None
    prefix: str


def redis_options(command: F) -> F:
    """Add the options that say where the queues are."""
    for option in (
        click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help="A TOML file; of it only [redis] and [queue] are read.",
        ),
        click.option(
            "--prefix", help="What the queues' keys begin with; overrides [queue] prefix."
        ),
        click.option("--redis-url", help="Where the queues are; overrides [redis] url."),
    ):
        command = option(command)
    return command


def place_of(config: Path | None, prefix: str | None, redis_url: str | None) -> Place:
    """Return where the queues are, from the same sources as a worker's, or refuse them."""
    from worker_core._runtime.sources import Layers  # noqa: PLC0415  # not for --help

    flags = {"redis.url": redis_url, "queue.prefix": prefix}
    layers, faults = Layers.read(config, flags=flags)
    # Faults in other settings are the worker's business: these tables hold more than is used here.
    redis = layers.table(RedisSettings.TABLE, RedisSettings, []).values
    queue = layers.table(QueueSettings.TABLE, QueueSettings, []).values
    url = redis.get("url", RedisSettings().url)
    password = redis.get("password")
    chosen_prefix = queue.get("prefix", QueueSettings().prefix)
    for path, value in (("redis.url", url), ("queue.prefix", chosen_prefix)):
        if not isinstance(value, str) or not value:
            faults.append(Fault(path, "expected text", layers.file_name))
    if faults:
        refuse(ConfigError(faults))
    return Place(str(url), None if password is None else str(password), str(chosen_prefix))

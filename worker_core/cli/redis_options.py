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
    from collections.abc import Callable, Mapping

    from worker_core.redis import Endpoint

__all__ = ["Place", "place_of", "redis_options"]

F = TypeVar("F", bound="Callable[..., Any]")

_ADDRESS = (
    *("url", "password", "tls_ca", "tls_cert", "tls_key"),
    *("sentinel_username", "sentinel_password"),
)
"""What of `[redis]` says where the queues are."""


@attrs.frozen
class Place:
    """Where the queues are."""

    endpoint: Endpoint
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
    chosen = layers.table(QueueSettings.TABLE, QueueSettings, []).values
    prefix = _text(chosen, "prefix", QueueSettings().prefix)
    if not prefix:
        faults.append(Fault("queue.prefix", "expected text", layers.file_name))
    table = layers.table(RedisSettings.TABLE, RedisSettings, []).values
    texts = {name: _text(table, name, getattr(RedisSettings(), name)) for name in _ADDRESS}
    faults.extend(
        Fault(f"redis.{name}", "expected text", layers.file_name)
        for name in _ADDRESS
        if texts[name] is None and table.get(name) is not None
    )
    given: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
    settings = RedisSettings(**given)
    faults.extend(Fault(f"redis.{name}", message) for name, message in settings.check())
    try:
        if faults:
            raise ConfigError(faults)
        return Place(settings.endpoint(), str(prefix))
    except ConfigError as error:
        refuse(error)


def _text(table: Mapping[str, object], name: str, default: str | None) -> str | None:
    """Return a setting's text; `None` for what is none."""
    value = table.get(name, default)
    return value if isinstance(value, str) and value else None

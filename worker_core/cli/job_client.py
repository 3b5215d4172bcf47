"""The client of the commands about jobs."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from worker_core.cli.options import fail, refuse
from worker_core.cli.redis_options import place_of
from worker_core.client import ClientError, SyncClient
from worker_core.errors import ConfigError, RedisError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["job_client"]

_PATIENCE = timedelta(seconds=3)
"""People at a terminal wait less for a server that is away than programs do."""


@contextmanager
def job_client(
    config: Path | None, prefix: str | None, redis_url: str | None
) -> Iterator[SyncClient]:
    """Connect; end the command with words for whatever goes wrong."""
    place = place_of(config, prefix, redis_url)
    try:
        with SyncClient(place.endpoint, prefix=place.prefix, patience=_PATIENCE) as client:
            yield client
    except ConfigError as error:
        refuse(error)
    except (ClientError, RedisError) as error:
        fail(str(error))
    except ValueError as error:  # a queue's name that cannot be one
        raise click.UsageError(str(error)) from None

"""A link to the queues' server for commands that look at more than jobs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker_core.cli.options import fail, refuse
from worker_core.client.plain_link import PlainLink
from worker_core.errors import ConfigError, RedisError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker_core.cli.redis_options import Place

__all__ = ["REPLY_SECONDS", "plain_link"]

REPLY_SECONDS = 5.0
"""How long a reply may take."""


@contextmanager
def plain_link(place: Place) -> Iterator[PlainLink]:
    """Open a link; end the command with words for whatever goes wrong."""
    try:
        link = PlainLink(place.endpoint, prefix=place.prefix, reply_timeout=REPLY_SECONDS)
    except ConfigError as error:
        refuse(error)
    try:
        yield link
    except RedisError as error:
        fail(str(error))
    finally:
        link.close()

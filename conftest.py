"""What the tests of the core and of the plugins share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker_core.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def free_tcp_port_factory() -> Callable[[], int]:
    """Return ports as anyio's fixture of this name does, none of them twice.

    Its ports are also given to outgoing connections: those of the tests that run at the same time
    would take the port of a server that a test restarts.
    """
    given: set[int] = set()

    def next_port() -> int:
        while (port := free_port()) in given:
            continue
        given.add(port)
        return port

    return next_port


@pytest.fixture
def free_tcp_port(free_tcp_port_factory: Callable[[], int]) -> int:
    """Return one such port."""
    return free_tcp_port_factory()

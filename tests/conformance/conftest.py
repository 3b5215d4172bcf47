"""The fixtures of worker_core.testing on two servers in turn, with a Node application beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.node import NodeApp
from tests.conformance.report import ConformanceReport
from tests.conformance.servers import Server, ServerKind
from tests.interop.support import install

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ConformanceReport())


# In place of worker_core.testing's: `valkey`, `start_worker` and `start_process` stand on it.
@pytest.fixture(scope="session", params=list(ServerKind), ids=lambda kind: kind.value)
def valkey_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server of each kind for the whole run."""
    with Server(request.param) as server:
        yield server


@pytest.fixture(scope="session")
def node_modules() -> None:
    """BullMQ for Node, as tests/interop/package-lock.json pins it."""
    install()


@pytest.fixture(scope="session")
def node_process(valkey_server: Server, node_modules: None) -> Iterator[NodeApp]:
    app = NodeApp(valkey_server.url)
    yield app
    app.close()


@pytest.fixture
def node(node_process: NodeApp) -> Iterator[NodeApp]:
    """A Node application on the test's server, with nothing open yet."""
    yield node_process
    node_process.reset()

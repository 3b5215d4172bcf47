"""From an endpoint to what connects to it: the one place where that is decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from worker_core.redis.cluster import OwnerSearcher, slot_or_refuse
from worker_core.redis.endpoint import ClusterNodes, Sentinels
from worker_core.redis.guided import GuidedConnector
from worker_core.redis.sentinel import PrimarySearcher
from worker_core.redis.topology import DirectConnector

if TYPE_CHECKING:
    from worker_core.redis.endpoint import Endpoint
    from worker_core.redis.searching import Searcher
    from worker_core.redis.topology import Connector

__all__ = ["connector_to", "searcher_of"]


def searcher_of(
    endpoint: Endpoint, *, prefix: str | None, name: str = "queue.prefix"
) -> Searcher | None:
    """Return how the server of an endpoint is found; `None`: there is nothing to find.

    Raises `ConfigError` for a Cluster and a `prefix` without a hash tag, which is called `name`.
    """
    match endpoint.guides:
        case None:
            return None
        case Sentinels() as sentinels:
            return PrimarySearcher(endpoint, sentinels)
        case ClusterNodes() as nodes:
            return OwnerSearcher(endpoint, nodes, slot_or_refuse(prefix, name=name))
        case never:
            assert_never(never)


def connector_to(
    endpoint: Endpoint, *, prefix: str | None = None, name: str = "queue.prefix"
) -> Connector:
    """Return the connector for an endpoint and for keys that begin with `prefix`.

    Raises `ConfigError` for files for TLS that cannot be used, and as `searcher_of` does.
    """
    if endpoint.tls is not None:
        endpoint.tls.context()
    searcher = searcher_of(endpoint, prefix=prefix, name=name)
    if searcher is None:
        return DirectConnector(endpoint, prefix=prefix)
    return GuidedConnector(endpoint, searcher, prefix=prefix)

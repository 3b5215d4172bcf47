"""What the clients have in common where nobody says otherwise: whom they ask, and how patiently."""

from datetime import timedelta

import attrs

from worker_core.redis import Endpoint

__all__ = ["PATIENCE", "POLL", "endpoint_of"]

PATIENCE = timedelta(seconds=10)
"""How long an outage of Redis is waited out."""
POLL = timedelta(seconds=5)
"""How often a queue is asked for a job's end, beside listening for it: events can be lost."""


def endpoint_of(url: str | Endpoint, password: str | None) -> Endpoint:
    """Return where a client was told the queues are; `password`, if given, replaces that one's own."""
    if isinstance(url, str):
        return Endpoint.from_url(url, password=password, name="url")
    return url if password is None else attrs.evolve(url, password=password)

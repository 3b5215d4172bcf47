"""Queues from outside: which there are, what is next in each, who works on them. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker_core._bullmq.keys import QueueKeys

if TYPE_CHECKING:
    from worker_core.redis import Arg

__all__ = ["find_next", "queues_pattern", "read_next", "read_queue_name", "read_worker_names"]

_GLOB = re.compile(r"([*?\[\]\\])")
_NAME = re.compile(rb"(?:^| )name=([^ ]*)")


def queues_pattern(prefix: str) -> str:
    """Return what SCAN matches to find the queues under a prefix: a queue has a `meta` key."""
    escaped = _GLOB.sub(r"\\\1", prefix)
    return f"{escaped}:*:meta"


def read_queue_name(prefix: str, key: bytes) -> str | None:
    """Return the queue that a `meta` key belongs to; `None` for a key that only looks like one."""
    name = key.decode("utf-8", "replace")[len(prefix) + 1 : -len(":meta")]
    # No queue's name has a colon; the key of a job, a lock or a deduplication has.
    return name if name and ":" not in name else None


def find_next(keys: QueueKeys) -> tuple[tuple[Arg, ...], ...]:
    """Return the commands that tell which jobs are next: of those in order, paused, prioritized."""
    return (
        ("LINDEX", keys.wait, -1),
        ("LINDEX", keys.paused, -1),
        ("ZRANGE", keys.prioritized, 0, 0),
    )


def read_next(reply: object) -> str | None:
    """Read the reply to one of `find_next`: a job's id, or nothing."""
    match reply:
        case bytes(job_id) | [bytes(job_id)]:
            return job_id.decode("utf-8", "replace")
        case _:
            return None


def read_worker_names(keys: QueueKeys, reply: object) -> tuple[str, ...]:
    """Read CLIENT LIST: the workers of a queue, as `Queue.getWorkers()` finds them, sorted.

    A worker that was given no name is listed with an empty one.
    """
    named = keys.client_name("")
    unnamed = named.removesuffix(":w:")
    names = _NAME.findall(reply.replace(b"\n", b" ")) if isinstance(reply, bytes) else []
    clients = [name.decode("utf-8", "replace") for name in names]
    return tuple(
        sorted(
            client.removeprefix(named) if client != unnamed else ""
            for client in clients
            if client == unnamed or client.startswith(named)
        )
    )

"""The Lua scripts, in `lua/`: what must be written of a batch in one piece, or may be sent twice.

A batch belongs to whoever opened it last, by a token of its own, until its job is there. So of two
who submit under one id at the same time neither puts its items between those of the other.
"""

from __future__ import annotations

from pathlib import Path

from worker_core.redis import Script

__all__ = ["APPEND_REQUESTS", "BEGIN_BATCH", "DROP_BATCH", "OPEN_BATCH", "RECORD_ITEM"]


def _load(name: str) -> Script:
    (path,) = Path(__file__).with_name("lua").glob(f"{name}-*.lua")
    return Script(name=name, source=path.read_bytes())


OPEN_BATCH = _load("openBatch")
"""Keys: job, requests, items, state; arguments: token, ttl (ms), meta (JSON)."""
APPEND_REQUESTS = _load("appendRequests")
"""Keys: requests, state; arguments: token, offset, ttl (ms), items."""
DROP_BATCH = _load("dropBatch")
"""Keys: job, requests, items, state; argument: token."""
BEGIN_BATCH = _load("beginBatch")
"""Keys: requests, items, state; arguments: when the job was added (ms), total, timeout (ms), ttl (ms)."""
RECORD_ITEM = _load("recordItem")
"""Keys: requests, items, state; arguments: index, outcome, `completed` or `failed`, prompt tokens,
completion tokens, ttl (ms)."""

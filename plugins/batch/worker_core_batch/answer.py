"""What a batch answers when all its items have an outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from worker_core.batches import PageSize

if TYPE_CHECKING:
    from worker_core_batch.request import BatchRequest
    from worker_core_batch.store import BatchStore

__all__ = ["sum_up"]

_MOST_BYTES = 16 * 1024 * 1024
"""Outcomes that go into the answer; more would hold up whoever reads or writes it."""


async def sum_up(store: BatchStore, request: BatchRequest) -> dict[str, object]:
    """Return the answer, with the outcomes of a batch whose requests stood in its data."""
    state = await store.state()
    answer: dict[str, object] = {
        "total": request.total,
        "completed": state.completed,
        "failed": state.failed,
        "usage": {
            "prompt_tokens": state.prompt_tokens,
            "completion_tokens": state.completion_tokens,
            "total_tokens": state.prompt_tokens + state.completion_tokens,
        },
    }
    outcomes = None if request.stored is not None else await _outcomes(store, request.total)
    if outcomes is None:
        return answer | {"items_key": store.keys.items, "items_ttl_seconds": store.ttl_seconds}
    return answer | {"items": [orjson.Fragment(one) for one in outcomes]}


async def _outcomes(store: BatchStore, total: int) -> list[bytes] | None:
    """Return all outcomes in order; `None` where they are too much for an answer."""
    size = PageSize()
    found: list[bytes] = []
    held = 0
    while len(found) < total:
        page = await store.outcomes(range(len(found), min(len(found) + size.count, total)))
        held += sum(map(len, page))
        if not page or held > _MOST_BYTES:
            return None
        size.learn(page)
        found += page
    return found

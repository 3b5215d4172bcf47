"""What the tests of batches share: items whose prompts tell them apart, and which of them ran."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs

from tests.integration.support import fields_of, state_of
from worker_core.client import BatchItem
from worker_core.testing.polling import eventually_async

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis

    from worker_core.client import JobRef
    from worker_core.testing.fake_engine import FakeEngine

BATCH = "llm-batch"
CHAT_MODEL = "llama3"
EMBEDDING_MODEL = "nomic-embed-text"

NO_CIRCUIT = {"consecutive": 1_000_000, "min_calls": 1_000_000}
"""Limits that no test comes to."""


def chat_item(name: str, **members: Any) -> BatchItem:
    """A chat whose prompt, and so its answer, is the item's own name."""
    messages = [{"role": "user", "content": name}]
    return BatchItem(name, "chat", {"model": CHAT_MODEL, "messages": messages, **members})


def embedding_item(name: str) -> BatchItem:
    """A text to embed, which is the item's own name."""
    return BatchItem(name, "embeddings", {"model": EMBEDDING_MODEL, "input": name})


def data_of(items: Iterable[BatchItem], **members: object) -> dict[str, object]:
    """A batch job's data as a Node application writes it."""
    return {"requests": [attrs.asdict(item, recurse=False) for item in items], **members}


def settings_for(engine: FakeEngine, **batch: object) -> dict[str, Any]:
    """A worker for batches of chats and embeddings."""
    return {
        "worker": {"plugins": ["batch", "chat", "embeddings"], "concurrency": 4, "grace": "5s"},
        "plugins": {
            "ollama": {
                "base_url": engine.url,
                "max_retries": 0,
                "max_concurrent_requests": 8,
                "circuit": NO_CIRCUIT,
            },
            "batch": batch,
        },
    }


def ready(engine: FakeEngine, **behaviour: Any) -> None:
    """Let the engine have its models loaded, and answer many at once."""
    engine.behaviour = attrs.evolve(
        engine.behaviour,
        **({"loaded": (CHAT_MODEL, EMBEDDING_MODEL), "parallel": 64} | behaviour),
    )


def runs(engine: FakeEngine) -> Counter[str]:
    """How often each item reached the engine, by name."""
    return Counter(
        name
        for request in engine.log.requests
        if request.path in {"/api/chat", "/api/embed"}
        for name in request.beginnings
    )


def recorded(client: redis.Redis, job_id: str, queue: str = BATCH) -> dict[int, Any]:
    """What is recorded of a batch's items."""
    raw = client.hgetall(f"bull:{queue}:{job_id}:items")
    return {int(index): json.loads(outcome) for index, outcome in raw.items()}


def names_of(outcomes: dict[int, Any]) -> set[str]:
    """The items of recorded outcomes."""
    return {outcome["custom_id"] for outcome in outcomes.values()}


async def ended(
    client: redis.Redis, ref: JobRef, state: str = "completed", *, within: float = 30.0
) -> dict[str, str]:
    """Wait until a job has ended so, and return its fields."""
    await eventually_async(
        lambda: state_of(client, ref.id, ref.queue) in {"completed", "failed"},
        within=within,
        what=f"{ref} ends; {fields_of(client, ref.id, ref.queue)}",
    )
    fields = fields_of(client, ref.id, ref.queue)
    assert state_of(client, ref.id, ref.queue) == state, fields
    return fields

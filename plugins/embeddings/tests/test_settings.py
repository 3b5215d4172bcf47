"""The settings: slots enough for a batch, and what the environment sets."""

from __future__ import annotations

from datetime import timedelta

from worker_core_embeddings import EmbeddingsJobType, EmbeddingsSettings

from worker_core import QueueSpec

QUEUES = (QueueSpec("a"), QueueSpec("b", concurrency=3, express=True))


def test_a_queue_has_twice_as_many_slots_as_a_call_has_inputs() -> None:
    job_type = EmbeddingsJobType(EmbeddingsSettings(queues=QUEUES, batch_size=10))
    assert job_type.queues == (
        QueueSpec("a", concurrency=20),
        QueueSpec("b", concurrency=3, express=True),
    )


def test_without_batches_the_slots_are_the_workers() -> None:
    job_type = EmbeddingsJobType(EmbeddingsSettings(queues=QUEUES, batch_enabled=False))
    assert job_type.queues == QUEUES


def test_the_defaults_are_those_that_are_documented() -> None:
    settings = EmbeddingsSettings()
    assert settings.queues == (QueueSpec("llm-embeddings"),)
    assert (settings.batch_size, settings.batch_timeout) == (32, timedelta(milliseconds=50))
    assert settings.timeout == timedelta(seconds=300)

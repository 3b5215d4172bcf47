"""Embedding jobs: texts in, vectors out, many jobs in one call."""

from worker_core_embeddings.job_type import EmbeddingsJobType
from worker_core_embeddings.plugin import EmbeddingsPlugin
from worker_core_embeddings.settings import EmbeddingsSettings

__all__ = ["EmbeddingsJobType", "EmbeddingsPlugin", "EmbeddingsSettings"]

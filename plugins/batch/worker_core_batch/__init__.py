"""Batch jobs: many requests in one job, each with an outcome of its own."""

from worker_core_batch.job_type import BatchJobType
from worker_core_batch.plugin import BatchPlugin
from worker_core_batch.settings import BatchSettings

__all__ = ["BatchJobType", "BatchPlugin", "BatchSettings"]

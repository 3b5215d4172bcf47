"""Chat jobs: one conversation in, one answer out."""

from worker_core_chat.job_type import ChatJobType
from worker_core_chat.plugin import ChatPlugin
from worker_core_chat.settings import ChatSettings

__all__ = ["ChatJobType", "ChatPlugin", "ChatSettings"]

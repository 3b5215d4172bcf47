"""An embedded llama.cpp engine for worker-core, with a small model."""

from worker_core_llamacpp.plugin import LlamaCppPlugin
from worker_core_llamacpp.settings import LlamaCppSettings

__all__ = ["LlamaCppPlugin", "LlamaCppSettings"]

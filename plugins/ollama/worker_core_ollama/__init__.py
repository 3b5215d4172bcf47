"""The Ollama engine for worker-core."""

from worker_core_ollama.plugin import OllamaPlugin
from worker_core_ollama.settings import OllamaSettings, RunnerProfile

__all__ = ["OllamaPlugin", "OllamaSettings", "RunnerProfile"]

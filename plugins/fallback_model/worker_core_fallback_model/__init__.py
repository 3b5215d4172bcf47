"""A fallback to other models, in order."""

from worker_core_fallback_model.plugin import FallbackModelPlugin
from worker_core_fallback_model.settings import FallbackModelSettings
from worker_core_fallback_model.strategy import ModelFallback

__all__ = ["FallbackModelPlugin", "FallbackModelSettings", "ModelFallback"]

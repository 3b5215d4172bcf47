"""A fallback that asks the same model for less."""

from worker_core_fallback_params.plugin import FallbackParamsPlugin
from worker_core_fallback_params.settings import FallbackParamsSettings
from worker_core_fallback_params.strategy import ParamsFallback

__all__ = ["FallbackParamsPlugin", "FallbackParamsSettings", "ParamsFallback"]

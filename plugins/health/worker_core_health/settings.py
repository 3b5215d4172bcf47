"""Settings of the health server: `[plugins.health]`."""

from __future__ import annotations

from datetime import timedelta

import attrs
from attrs.validators import and_, ge, le, min_len

from worker_core import setting
from worker_core.config import longer_than_zero

__all__ = ["HealthSettings"]


@attrs.frozen(kw_only=True)
class HealthSettings:
    """Where probes are answered, and how long an answer may take."""

    host: str = setting("127.0.0.1", validator=min_len(1))
    """The address to listen on; "0.0.0.0" where probes come from outside, as in a container."""
    port: int = setting(3008, validator=and_(ge(0), le(65_535)))
    """0 takes a free one, which the log names."""
    metrics: bool = setting(default=True, env="METRICS_ENABLED")
    """Whether `/metrics` is served."""
    probe_timeout: timedelta = setting(timedelta(milliseconds=800), validator=longer_than_zero)
    """How long the worker's parts may take to say how they are; a probe is answered a moment later."""

"""The telemetry that a producer gave a job along: carried, never looked into."""

from __future__ import annotations

import attrs

from worker_core.errors import InvalidRequest
from worker_core.strict_json import loads

__all__ = ["Telemetry", "read_telemetry"]


@attrs.frozen
class Telemetry:
    """The trace that a job belongs to, and whether it is passed on to what the job adds."""

    context: str | None = None
    ends_here: bool = False

    @property
    def passed_on(self) -> str | None:
        """What a job that this one adds is given."""
        return None if self.ends_here else self.context


_NONE = Telemetry()


def read_telemetry(raw_options: bytes) -> Telemetry:
    """Read `tm` and `omc` of a job's options; no job fails for what stands there."""
    if b'"tm"' not in raw_options and b'"omc"' not in raw_options:
        return _NONE
    try:
        options = loads(raw_options)
    except InvalidRequest:
        return _NONE
    if not isinstance(options, dict):
        return _NONE
    context = options.get("tm")
    return Telemetry(
        context if isinstance(context, str) else None, ends_here=options.get("omc") is True
    )

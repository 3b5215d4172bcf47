"""How patient a link is: bounds in time and memory, and the wait between attempts to connect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from random import Random

__all__ = ["Backoff", "LinkOptions"]


@attrs.frozen(kw_only=True)
class Backoff:
    """Exponential waits with full jitter, in seconds."""

    initial: float = attrs.field(default=0.05, validator=attrs.validators.gt(0))
    factor: float = attrs.field(
        default=2.0, validator=[attrs.validators.ge(1), attrs.validators.le(100)]
    )
    maximum: float = attrs.field(default=2.0, validator=attrs.validators.gt(0))

    def ceiling(self, failures: int) -> float:
        """The longest wait after so many failures in a row, in seconds."""
        # Beyond that exponent the maximum rules anyway; without the bound a float overflows.
        return min(self.maximum, self.initial * self.factor ** min(failures, 64))

    def delay(self, failures: int, random: Random) -> float:
        """A wait between nothing and the ceiling: workers that lost one server return scattered."""
        return random.uniform(0, self.ceiling(failures))


@attrs.frozen(kw_only=True)
class LinkOptions:
    """The bounds of a link; times in seconds."""

    connect_timeout: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    """Dialling, signing in and loading the scripts together."""
    reply_timeout: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    """A call that was sent and is not answered for so long: the connection is given up."""
    ping_interval: float = attrs.field(default=15.0, validator=attrs.validators.gt(0))
    """An idle link asks so often whether the server is there; `math.inf`: never."""
    backoff: Backoff = Backoff()
    max_queued_calls: int = attrs.field(default=20_000, validator=attrs.validators.ge(1))
    """Calls that wait to be sent, most of them during an outage."""
    max_queued_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=attrs.validators.ge(1))
    close_timeout: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    """What was posted before the end of the context has so long to be sent and answered."""

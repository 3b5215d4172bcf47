"""What scripts cost the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from typing import Self

    import redis

__all__ = ["ScriptUse"]


@attrs.frozen
class ScriptUse:
    """Calls and time since the server started; an observer must run no scripts meanwhile."""

    calls: int
    seconds: float

    @classmethod
    def of(cls, client: redis.Redis) -> Self:
        """Read them."""
        stats = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec": 0})
        return cls(stats["calls"], stats["usec"] / 1e6)

    def since(self, earlier: ScriptUse) -> ScriptUse:
        """Return what has come on top."""
        return ScriptUse(self.calls - earlier.calls, self.seconds - earlier.seconds)

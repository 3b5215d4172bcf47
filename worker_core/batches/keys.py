"""The Redis keys of one batch."""

from __future__ import annotations

import attrs

__all__ = ["BatchKeys"]


@attrs.frozen
class BatchKeys:
    """The keys of a batch, all made from the job's own: no producer can name another's."""

    prefix: str
    queue: str
    id: str

    @property
    def job(self) -> str:
        """The hash of the job itself, which is BullMQ's."""
        return f"{self.prefix}:{self.queue}:{self.id}"

    @property
    def requests(self) -> str:
        """A list with an item at each index, where the job's data does not hold them itself."""
        return f"{self.job}:requests"

    @property
    def items(self) -> str:
        """A hash: index of an item, to its outcome."""
        return f"{self.job}:items"

    @property
    def state(self) -> str:
        """A hash: how far the batch is."""
        return f"{self.job}:batch"

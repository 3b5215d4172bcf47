"""How many items to read at once: many small ones, few large ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PageSize"]

_BYTES = 4 * 1024 * 1024
"""About so much is held of a page."""
_FIRST = 16


@attrs.define
class PageSize:
    """The size of the next page, learnt from those before it; never more than `most` items."""

    most: int = 100
    _learnt: int = _FIRST

    @property
    def count(self) -> int:
        """How many items to ask for."""
        return min(self.most, self._learnt)

    def learn(self, page: Iterable[object]) -> None:
        """Take the largest item of a page for the size of those that follow."""
        largest = max((len(one) for one in page if isinstance(one, bytes)), default=0)
        # By steps: behind a page of small items a large one may stand.
        grown = 4 * self._learnt
        self._learnt = max(1, min(grown, _BYTES // max(largest, 1)))

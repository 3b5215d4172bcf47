"""A batch job's data."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

import attrs

from worker_core import JSON
from worker_core.batches import OnError
from worker_core.request_fields import a_time_limit, read_time_limit
from worker_core.structure import kind_of

__all__ = ["BatchRequest", "StoredRequests"]


def _a_list(_: object, field: attrs.Attribute[Any], value: JSON) -> None:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"'{field.name}' expected a list, found {kind_of(value)}")


def _positive(_: object, field: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"'{field.name}' must be at least 1")


@attrs.frozen(kw_only=True)
class StoredRequests:
    """Says that the requests stand beside the job, under a key that is made from its id."""

    total: int = attrs.field(validator=_positive)


@attrs.frozen(kw_only=True)
class BatchRequest:
    """The data of a batch job: the requests, or that they are stored, and how to run them."""

    # Not structured with the rest: of thousands that would hold up the worker for all its jobs.
    requests: JSON = attrs.field(default=None, validator=_a_list)
    """A list of `{"custom_id", "type", "body"}`."""
    stored: StoredRequests | None = None
    concurrency: int | None = attrs.field(default=None, validator=_positive)
    """Items that run at once; by default as many as the worker runs jobs of their type."""
    on_error: Literal["continue", "stop"] = "continue"
    timeout: float | str | None = attrs.field(default=None, validator=a_time_limit)
    """Milliseconds, or a duration such as "24h"; counts from when the job was added."""
    metadata: dict[str, JSON] = attrs.field(factory=dict)
    """The application's own; not looked at."""

    @property
    def inline(self) -> list[JSON] | None:
        """The requests where they stand in the data itself."""
        return self.requests if isinstance(self.requests, list) else None

    @property
    def total(self) -> int:
        """How many requests there are."""
        if self.stored is not None:
            return self.stored.total
        return len(self.inline or ())

    @property
    def stops(self) -> bool:
        """Whether a failed item ends the batch."""
        return OnError(self.on_error) is OnError.STOP

    @property
    def time_limit(self) -> timedelta | None:
        """How long all of it may take."""
        return read_time_limit(self.timeout)

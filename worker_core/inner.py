"""Runs within a run: what a job type sees of the worker's others, to let them answer for its job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["InnerResult", "InnerTypes"]


@attrs.frozen(kw_only=True)
class InnerResult:
    """What an inner run has come to."""

    envelope: bytes
    """JSON: the result envelope that a job of its own would have had."""
    prompt_tokens: int
    completion_tokens: int


class InnerTypes(Protocol):
    """The job types that may run within a job: all that are enabled, without its own."""

    @property
    def names(self) -> Sequence[str]:
        """Their names, sorted."""
        ...

    def check(self, job_type: str, data: object) -> None:
        """Raise `InvalidRequest` for a type that is not there, or for data that it would refuse.

        What a type checks only as it runs, such as whether the model is allowed, is not looked at.
        """
        ...

    def slots(self, job_type: str) -> int:
        """Return how many jobs of a type the worker runs at once; `InvalidRequest` for none such."""
        ...

"""How a producer wishes its job to be run; light enough for the public names to bring it along."""

from __future__ import annotations

import enum
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from worker_core._bullmq.job import Backoff

__all__ = ["AddOptions", "ChildFailure"]

_PRIORITY_LIMIT = 2**21
"""BullMQ's own: the score of a prioritized job would not be exact above."""
_LONGEST_DELAY = timedelta(days=3650)
"""BullMQ keeps due times as `ms * 4096` in a double, which is exact until the year 2039."""
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")


def _check_job_id(_: object, __: attrs.Attribute[Any], value: str | None) -> None:
    """Refuse what `Job.validateOptions` of BullMQ refuses: ids that the queue itself may give."""
    if value is None:
        return
    if not value or _WHOLE_NUMBER.fullmatch(value):
        raise ValueError(f"job_id must not be empty or a whole number: {value!r}")
    if ":" in value and len(value.split(":")) != 3:
        raise ValueError(f"job_id must not hold a colon: {value!r}")


def _check_delay(_: object, __: attrs.Attribute[Any], value: timedelta) -> None:
    if not timedelta() <= value <= _LONGEST_DELAY:
        raise ValueError("delay must be from nothing to ten years")


@attrs.frozen(kw_only=True)
class AddOptions:
    """How a job is to be run, as its producer wishes it; raises `ValueError` as BullMQ would."""

    job_id: str | None = attrs.field(default=None, validator=_check_job_id)
    """An id of the producer's own; a job that is there already is not added a second time."""
    attempts: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    backoff: Backoff | None = None
    delay: timedelta = attrs.field(default=timedelta(), validator=_check_delay)
    priority: int = attrs.field(
        default=0, validator=[attrs.validators.ge(0), attrs.validators.lt(_PRIORITY_LIMIT)]
    )
    lifo: bool = False
    keep_completed: int | None = None
    """How many completed jobs to keep; 0 removes this one at once."""
    keep_failed: int | None = None
    telemetry: str | None = None
    """The trace that the job belongs to, in the words of whoever reads it."""
    omit_telemetry: bool = False
    """Whether the trace is not passed on to this job."""

    def stored(self) -> dict[str, object]:
        """Return the options under BullMQ's names; what is not set is absent there."""
        options: dict[str, object] = {"attempts": self.attempts}
        if self.backoff is not None:
            options["backoff"] = attrs.asdict(self.backoff)
        if self.delay:
            options["delay"] = _ms(self.delay)
        if self.priority:
            options["priority"] = self.priority
        if self.lifo:
            options["lifo"] = True
        if self.job_id is not None:
            options["jobId"] = self.job_id
        if self.keep_completed is not None:
            options["removeOnComplete"] = self.keep_completed
        if self.keep_failed is not None:
            options["removeOnFail"] = self.keep_failed
        if self.telemetry is not None:
            options["tm"] = self.telemetry
        if self.omit_telemetry:
            options["omc"] = True
        return options


class ChildFailure(enum.Enum):
    """What it means for a parent that a child of it has failed for good; the values are BullMQ's."""

    WAIT = ""
    """It waits on, for the child may be retried by hand."""
    FAIL_PARENT = "fpof"
    """It fails too."""
    CONTINUE_PARENT = "cpof"
    """It runs at once, and does not wait for its other children either."""
    IGNORE = "idof"
    """It does not wait for this one any more, and is told why it failed."""
    REMOVE = "rdof"
    """It does not wait for this one any more, and hears nothing of it."""


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)

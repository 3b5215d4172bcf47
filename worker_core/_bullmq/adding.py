"""Building the calls of a producer: adding jobs, and reading one back. Pure."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import msgpack

from worker_core._bullmq.calls import ScriptCall, now_ms
from worker_core._bullmq.scripts import load_script

if TYPE_CHECKING:
    from worker_core._bullmq.job import Backoff
    from worker_core._bullmq.keys import QueueKeys

__all__ = ["PRODUCER_SCRIPTS", "AddOptions", "add", "get_state", "read_added"]

PRODUCER_SCRIPTS = (
    "addStandardJob",
    "addDelayedJob",
    "addPrioritizedJob",
    "isFinished",
    "getStateV2",
)
"""BullMQ's scripts that a producer runs."""

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
        return options


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def add(keys: QueueKeys, name: str, data: bytes, options: AddOptions) -> ScriptCall:
    """Add a job whose `data` is JSON; the reply is its id."""
    arguments = [keys.base, options.job_id or "", name, now_ms(), None, None, None, None, None]
    args = (msgpack.packb(arguments), data, msgpack.packb(options.stored()))
    if options.delay:
        return ScriptCall(
            load_script("addDelayedJob"),
            (keys.marker, keys.meta, keys.id, keys.delayed, keys.completed, keys.events),
            args,
        )
    if options.priority:
        return ScriptCall(
            load_script("addPrioritizedJob"),
            (
                *(keys.marker, keys.meta, keys.id, keys.prioritized, keys.delayed),
                *(keys.completed, keys.active, keys.events, keys.pc),
            ),
            args,
        )
    return ScriptCall(
        load_script("addStandardJob"),
        (
            *(keys.wait, keys.paused, keys.meta, keys.id, keys.completed, keys.delayed),
            *(keys.active, keys.events, keys.marker),
        ),
        args,
    )


def read_added(reply: object) -> str:
    """Read the id of an added job."""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    raise ValueError(f"the queue did not take the job: its script answered {reply!r}")


def get_state(keys: QueueKeys, job_id: str) -> ScriptCall:
    """Ask where a job stands."""
    return ScriptCall(
        load_script("getStateV2"),
        (
            *(keys.completed, keys.failed, keys.delayed, keys.active, keys.wait, keys.paused),
            *(keys.waiting_children, keys.prioritized),
        ),
        (job_id,),
    )

"""Building the calls of a producer: adding jobs, and reading one back. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import attrs
import msgpack

from worker_core._bullmq.calls import ScriptCall, now_ms
from worker_core._bullmq.scripts import load_script

if TYPE_CHECKING:
    from worker_core._bullmq.job import Backoff
    from worker_core._bullmq.keys import QueueKeys

__all__ = ["AddOptions", "add", "read_added"]

_PRIORITY_LIMIT = 2**21
"""BullMQ's own: the score of a prioritized job would not be exact above."""


@attrs.frozen(kw_only=True)
class AddOptions:
    """How a job is to be run, as its producer wishes it."""

    job_id: str | None = None
    attempts: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    backoff: Backoff | None = None
    delay: timedelta = timedelta()
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

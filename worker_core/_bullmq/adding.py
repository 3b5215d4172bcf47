"""Building the calls of a producer: adding jobs, and reading one back. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import msgpack

from worker_core._bullmq.calls import ScriptCall, now_ms
from worker_core._bullmq.scripts import load_script
from worker_core.add_options import AddOptions, ChildFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker_core._bullmq.keys import QueueKeys

__all__ = [
    "PRODUCER_SCRIPTS",
    "AddOptions",
    "Parent",
    "add",
    "add_stored",
    "get_state",
    "pack_added",
    "read_added",
    "standard_keys",
]

PRODUCER_SCRIPTS = (
    "addStandardJob",
    "addDelayedJob",
    "addPrioritizedJob",
    "isFinished",
    "getStateV2",
)
"""BullMQ's scripts that a producer runs."""


@attrs.frozen(kw_only=True)
class Parent:
    """The job that a new job becomes a child of, and what it means for it when the child fails."""

    keys: QueueKeys
    """Of the parent's queue."""
    id: str
    if_child_fails: ChildFailure = ChildFailure.WAIT

    def arguments(self) -> tuple[str, str, dict[str, object]]:
        """Return key, key of what it waits for, and what the child keeps of it."""
        key = self.keys.job(self.id)
        kept: dict[str, object] = {"id": self.id, "queueKey": self.keys.base[:-1]}
        return key, f"{key}:dependencies", kept | self._flag()

    def stored(self) -> dict[str, object]:
        """Return the child's options that are about its parent, under BullMQ's names."""
        return {"parent": {"id": self.id, "queue": self.keys.base[:-1]}} | self._flag()

    def _flag(self) -> dict[str, object]:
        flag = self.if_child_fails.value
        return {flag: True} if flag else {}


def add(
    keys: QueueKeys, name: str, data: bytes, options: AddOptions, parent: Parent | None = None
) -> ScriptCall:
    """Add a job whose `data` is JSON; the reply is its id."""
    stored = options.stored()
    if parent is not None:
        stored |= parent.stored()
    return add_stored(keys, name, data, stored, job_id=options.job_id, parent=parent)


def add_stored(
    keys: QueueKeys,
    name: str,
    data: bytes,
    stored: Mapping[str, object],
    *,
    job_id: str | None,
    parent: Parent | None = None,
) -> ScriptCall:
    """Add a job with options as BullMQ stores them; the reply is its id."""
    arguments, options = pack_added(keys, name, stored, job_id=job_id, parent=parent)
    args = (arguments, data, options)
    if stored.get("delay"):
        return ScriptCall(
            load_script("addDelayedJob"),
            (keys.marker, keys.meta, keys.id, keys.delayed, keys.completed, keys.events),
            args,
        )
    if stored.get("priority"):
        return ScriptCall(
            load_script("addPrioritizedJob"),
            (
                *(keys.marker, keys.meta, keys.id, keys.prioritized, keys.delayed),
                *(keys.completed, keys.active, keys.events, keys.pc),
            ),
            args,
        )
    return ScriptCall(load_script("addStandardJob"), standard_keys(keys), args)


def pack_added(
    keys: QueueKeys,
    name: str,
    stored: Mapping[str, object],
    *,
    job_id: str | None,
    parent: Parent | None = None,
) -> tuple[bytes, bytes]:
    """Return what every script that adds a job is told beside its data: who it is, its options."""
    above: tuple[object, ...] = (None, None, None) if parent is None else parent.arguments()
    arguments = [keys.base, job_id or "", name, now_ms(), *above, None, None]
    return msgpack.packb(arguments), msgpack.packb(stored)


def standard_keys(keys: QueueKeys) -> tuple[str, ...]:
    """Return the keys of `addStandardJob`."""
    return (
        *(keys.wait, keys.paused, keys.meta, keys.id, keys.completed, keys.delayed),
        *(keys.active, keys.events, keys.marker),
    )


def read_added(reply: object) -> str:
    """Read the id of an added job; raises `ValueError` where it was not added."""
    match reply:
        case bytes():
            return reply.decode("utf-8", "replace")
        case -5:
            raise ValueError("the queue did not take the job: its parent is not there any more")
        case -7:
            raise ValueError("the queue did not take the job: it is there, with another parent")
        case _:
            pass
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

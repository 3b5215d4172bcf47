"""A job with children: waiting for them, and reading how they ended. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from worker_core._bullmq.calls import ScriptCall, now_ms
from worker_core._bullmq.scripts import load_script

if TYPE_CHECKING:
    from worker_core._bullmq.keys import QueueKeys

__all__ = ["ChildKeys", "count_children", "read_texts", "wait_for_children"]


@attrs.frozen
class ChildKeys:
    """The keys that hold what is known of a job's children, each child by the key of its hash."""

    job: str

    @property
    def pending(self) -> str:
        """A set: those that it waits for."""
        return f"{self.job}:dependencies"

    @property
    def values(self) -> str:
        """A hash: the return values (JSON) of those that completed."""
        return f"{self.job}:processed"

    @property
    def failures(self) -> str:
        """A hash: the reasons (text) of those that failed without failing the parent."""
        return f"{self.job}:failed"

    @property
    def unsuccessful(self) -> str:
        """A sorted set: those whose failure fails the parent."""
        return f"{self.job}:unsuccessful"


def wait_for_children(keys: QueueKeys, job_id: str, token: str) -> ScriptCall:
    """Move an active job to those that wait for their children; 1 says that none is pending."""
    children = ChildKeys(keys.job(job_id))
    return ScriptCall(
        load_script("moveToWaitingChildren"),
        (
            *(keys.active, keys.waiting_children, keys.job(job_id)),
            *(children.pending, children.unsuccessful, keys.stalled, keys.events),
        ),
        # The empty text: for any child, not for one of them.
        (token, "", now_ms(), job_id, keys.base),
    )


def count_children(keys: QueueKeys, job_id: str) -> ScriptCall:
    """Count a job's children by how they ended: four numbers, whose sum is all of them."""
    children = ChildKeys(keys.job(job_id))
    return ScriptCall(
        load_script("getDependencyCounts"),
        (children.values, children.pending, children.failures, children.unsuccessful),
        ("processed", "unprocessed", "ignored", "failed"),
    )


def read_texts(reply: object) -> dict[str, bytes]:
    """Read `HGETALL` on children's values or failures: by the key of the child."""
    flat = reply if isinstance(reply, list) else []
    return {
        name.decode("utf-8", "replace"): value
        for name, value in zip(flat[::2], flat[1::2], strict=False)
        if isinstance(name, bytes) and isinstance(value, bytes)
    }

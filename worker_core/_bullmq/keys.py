"""The Redis keys of one queue."""

from __future__ import annotations

import base64

import attrs

__all__ = ["QueueKeys"]


def _key(part: str) -> str:
    """Declare the field that holds the key `<prefix>:<name>:<part>`."""

    def build(keys: QueueKeys) -> str:
        return f"{keys.prefix}:{keys.name}:{part}"

    key: str = attrs.field(init=False, default=attrs.Factory(build, takes_self=True))
    return key


def _check_name(_: object, field: attrs.Attribute[str], value: str) -> None:
    # BullMQ refuses the same: the colon separates the parts of its keys.
    if not value or ":" in value:
        raise ValueError(f"'{field.name}' of a queue must not be empty or hold a colon: {value!r}")


@attrs.frozen
class QueueKeys:
    """The keys of the queue `name` under `prefix`, and the names derived from them."""

    prefix: str
    name: str = attrs.field(validator=_check_name)
    base: str = _key("")
    wait: str = _key("wait")
    active: str = _key("active")
    paused: str = _key("paused")
    delayed: str = _key("delayed")
    prioritized: str = _key("prioritized")
    completed: str = _key("completed")
    failed: str = _key("failed")
    waiting_children: str = _key("waiting-children")
    events: str = _key("events")
    stalled: str = _key("stalled")
    stalled_check: str = _key("stalled-check")
    repeat: str = _key("repeat")
    limiter: str = _key("limiter")
    meta: str = _key("meta")
    pc: str = _key("pc")
    marker: str = _key("marker")
    id: str = _key("id")
    wishes: str = _key("cancels:wished")
    """Jobs to be cancelled (ours, not BullMQ's); with a colon, for no job's id may have one."""
    dead_outbox: str = _key("dead:outbox")
    """Dead letters of failures that are being written down (ours as well)."""
    fetch: tuple[str, ...] = attrs.field(init=False, repr=False)
    """What every script that takes a job begins with."""

    @fetch.default
    def _fetch(self) -> tuple[str, ...]:
        return (
            *(self.wait, self.active, self.prioritized, self.events, self.stalled),
            *(self.limiter, self.delayed, self.paused, self.meta, self.pc),
        )

    @property
    def dead(self) -> QueueKeys:
        """The keys of the queue that keeps the jobs which failed for good."""
        return QueueKeys(self.prefix, f"{self.name}-dead")

    def job(self, job_id: str) -> str:
        """Return the key of a job's hash."""
        return self.base + job_id

    def lock(self, job_id: str) -> str:
        """Return the key of a job's lock."""
        return f"{self.base}{job_id}:lock"

    def logs(self, job_id: str) -> str:
        """Return the key of a job's log lines."""
        return f"{self.base}{job_id}:logs"

    def result(self, job_id: str) -> str:
        """Return the key for a result too large for the return value (ours, not BullMQ's)."""
        return f"{self.base}{job_id}:result"

    def tokens(self, job_id: str) -> str:
        """Return the key of the stream of what a job puts out while it runs (ours as well)."""
        return f"{self.base}{job_id}:tokens"

    def metrics(self, target: str) -> str:
        """Return the key of the chart data of `completed` or `failed`."""
        return f"{self.base}metrics:{target}"

    def client_name(self, worker: str) -> str:
        """Return the connection name by which `Queue.getWorkers()` finds a worker."""
        encoded = base64.b64encode(self.name.encode()).decode()
        return f"{self.prefix}:{encoded}:w:{worker}"

"""Kills that are aimed at a phase of a job's life, with the proof of what they hit.

claim   the server made the job active for this worker, and no reply has reached the worker since
run     the engine was answering the job for this worker, and saw its client go
finish  the server recorded the job as completed by this worker, and no reply has reached it since
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from worker_core.testing.polling import eventually_async

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.chaos.cluster import Cluster, ClusterWorker

__all__ = ["PHASES", "Strike", "strike"]

PHASES = ("claim", "run", "finish")
_SCRIPTS = {"claim": "moveToActive", "finish": "moveToFinished"}
_RECENT = 256
"""Requests at the end of the engine's log that are looked at: more than can be under way."""


@attrs.frozen
class Strike:
    """One kill: what it was aimed at, and the jobs that it is proved to have hit, by phase."""

    aimed_at: str
    worker: str
    hits: Mapping[str, frozenset[str]]


async def strike(cluster: Cluster, queue: str, phase: str) -> Strike:
    """Kill a worker in a phase of one of its jobs.

    A claim of its own, not one that comes with a finish, is what a worker does first: for that a
    new worker is started. The others hit the oldest.
    """
    base = f"bull:{queue}"
    victim = await cluster.start_worker() if phase == "claim" else cluster.workers[0]
    running: Mapping[str, int] = {}
    unseen_from = b"+"
    if phase == "run":
        running = await _running_jobs(cluster, base, victim)
    else:
        unseen_from = await _shut_gate(cluster, base, victim, phase)
    await cluster.kill(victim)
    hits = {
        "run": await _ran(cluster, base, victim, running),
        **_unseen(cluster, base, victim, unseen_from),
    }
    return Strike(phase, victim.id, {name: found for name, found in hits.items() if found})


async def _shut_gate(cluster: Cluster, base: str, victim: ClusterWorker, phase: str) -> bytes:
    """Let the worker call, and its call be executed, and hold the reply.

    Returns the id of the last event before that.
    """
    last: list[bytes] = []

    def note() -> None:
        last.append(cluster.client.xinfo_stream(f"{base}:events")["last-generated-id"])

    victim.gate.arm(_SCRIPTS[phase], note)
    await eventually_async(
        lambda: last and _unseen(cluster, base, victim, last[0])[phase],
        within=30,
        what=f"{victim.id} is caught in {phase}; it has made {dict(victim.gate.calls)}",
    )
    return last[0]


def _unseen(
    cluster: Cluster, base: str, victim: ClusterWorker, since: bytes
) -> dict[str, frozenset[str]]:
    """What the server did for the worker since an event whose successors it never heard of."""
    if since == b"+":
        return {"claim": frozenset(), "finish": frozenset()}
    happened = [
        (fields[b"event"], fields[b"jobId"].decode())
        for _, fields in cluster.client.xrange(f"{base}:events", b"(" + since)
        if b"jobId" in fields
    ]

    def own(kind: bytes) -> set[str]:
        return {
            j for event, j in happened if event == kind and _owner(cluster, base, j) == victim.id
        }

    return {
        "claim": frozenset(own(b"active") & _active(cluster, base)),
        "finish": frozenset(own(b"completed")),
    }


async def _running_jobs(cluster: Cluster, base: str, victim: ClusterWorker) -> dict[str, int]:
    """Wait until the engine answers jobs of this worker; return them with their requests' ids."""

    def find() -> dict[str, int]:
        labels = _labels_running(cluster)
        return {
            job_id: labels[label]
            for job_id in _active(cluster, base)
            if _owner(cluster, base, job_id) == victim.id
            and (label := _label(cluster, base, job_id)) in labels
        }

    return await eventually_async(find, within=30, what=f"{victim.id} runs a job")


async def _ran(
    cluster: Cluster, base: str, victim: ClusterWorker, running: Mapping[str, int]
) -> frozenset[str]:
    """Those of the jobs that are still the dead worker's and whose request lost its client."""
    ids = set(running.values())

    def ends() -> dict[int, str]:
        found = {r["id"]: r["outcome"] for r in _recent(cluster) if r["id"] in ids}
        return {} if "running" in found.values() else found

    outcomes = await eventually_async(ends, what="the engine notices") if ids else {}
    return frozenset(
        job_id
        for job_id in _active(cluster, base) & running.keys()
        if _owner(cluster, base, job_id) == victim.id
        and outcomes.get(running[job_id]) == "disconnected"
    )


def _recent(cluster: Cluster) -> list[dict[str, object]]:
    return cluster.engine.requests(max(0, cluster.engine.total() - _RECENT))


def _labels_running(cluster: Cluster) -> dict[str, int]:
    recent = [r for r in _recent(cluster) if r["outcome"] == "running"]
    return {label: r["id"] for r in recent for label in r["options"]}


def _active(cluster: Cluster, base: str) -> set[str]:
    return {raw.decode() for raw in cluster.client.lrange(f"{base}:active", 0, -1)}


def _owner(cluster: Cluster, base: str, job_id: str) -> str | None:
    owner = cluster.client.hget(f"{base}:{job_id}", "pb")
    return None if owner is None else owner.decode()


def _label(cluster: Cluster, base: str, job_id: str) -> str:
    name = cluster.client.hget(f"{base}:{job_id}", "name")
    return "" if name is None else name.decode()

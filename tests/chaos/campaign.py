"""One chaos run: jobs, kills aimed at phases, a restart of the server, and the ledger at the end."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import anyio
import attrs

from tests.chaos.ledger import Ledger, label_of, prompt_of, take_ledger
from tests.chaos.strikes import PHASES, Strike, strike
from worker_core._bullmq.adding import AddOptions, add
from worker_core._bullmq.keys import QueueKeys
from worker_core.testing.polling import eventually_async

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.cluster import Cluster

__all__ = ["Plan", "run_campaign"]

QUEUE = "llm-chat"
_KEPT_EVENTS = 10_000_000
_BACKLOG = 30
"""Jobs that wait while there are kills to come: a worker without jobs can be hit in none."""
_FEED_SECONDS = 0.05
_AIMS = 3
"""How often a phase is aimed at before the run goes on without a hit."""


@attrs.frozen(kw_only=True)
class Plan:
    """What is done to a cluster."""

    jobs: int = 300
    """At least so many; more where the kills take longer than these jobs."""
    workers: int = 3
    strikes: Sequence[str] = PHASES
    restart_after: int = 2
    """The server is killed once, after so many kills."""
    settle_seconds: float = 60.0
    """How long the jobs may take from the last kill on."""


class _Feed:
    """Adds the jobs bit by bit, so that there are some until the last kill."""

    def __init__(self, cluster: Cluster) -> None:
        self.jobs: dict[str, int] = {}
        self.paused = anyio.Lock()
        self._cluster = cluster
        self._keys = QueueKeys("bull", QUEUE)

    def add(self) -> None:
        """Add the next job."""
        number = len(self.jobs)
        data = {
            "model": "llama3",
            "messages": [{"role": "user", "content": prompt_of(number)}],
            "options": {label_of(number): 0},
        }
        call = add(self._keys, label_of(number), json.dumps(data).encode(), AddOptions())
        raw = self._cluster.client.eval(call.script.source, len(call.keys), *call.keys, *call.args)
        self.jobs[raw.decode()] = number

    async def run(self) -> None:
        """Keep a backlog until cancelled."""
        while True:
            async with self.paused:
                waiting = self._cluster.client.llen(self._keys.wait)
                for _ in range(_BACKLOG - waiting):
                    self.add()
            await anyio.sleep(_FEED_SECONDS)


async def run_campaign(cluster: Cluster, plan: Plan) -> Ledger:
    """Carry out the plan and take the ledger once every worker has been stopped."""
    began = time.monotonic()
    # Else BullMQ's scripts trim the events, and the ledger would have gaps.
    cluster.client.hset(f"bull:{QUEUE}:meta", "opts.maxLenEvents", _KEPT_EVENTS)
    feed = _Feed(cluster)
    strikes: list[Strike] = []
    restarted = False
    for _ in range(plan.workers - 1):
        await cluster.start_worker()
    for worker in cluster.workers:
        await worker.ready()
    async with anyio.create_task_group() as feeding:
        feeding.start_soon(feed.run)
        for phase in plan.strikes:
            strikes.append(await strike(cluster, QUEUE, phase))
            # The job that was aimed at may have ended in the moment of the kill.
            for _ in range(_AIMS - 1):
                if strikes[-1].hits.get(phase):
                    break
                strikes.append(await strike(cluster, QUEUE, phase))
            while len(cluster.workers) < plan.workers:
                await cluster.start_worker()
            if not restarted and 0 < plan.restart_after <= len(strikes):
                restarted = True
                async with feed.paused:
                    await cluster.restart_valkey()
        feeding.cancel_scope.cancel()
    while len(feed.jobs) < plan.jobs:
        feed.add()
    for worker in cluster.workers:
        await worker.ready()
    await _settle(cluster, plan.settle_seconds)
    codes = await cluster.stop_workers(signal.SIGTERM)
    assert not any(codes), codes
    return take_ledger(
        cluster.client,
        QUEUE,
        feed.jobs,
        engine_log=cluster.engine.requests(),
        strikes=strikes,
        server_restarts=int(restarted),
        seconds=time.monotonic() - began,
    )


async def _settle(cluster: Cluster, seconds: float) -> None:
    """Wait until nothing waits or runs; where that does not come, the ledger says what is stuck."""
    base = f"bull:{QUEUE}"

    def settled() -> bool:
        client = cluster.client
        waiting = client.llen(f"{base}:wait") + client.llen(f"{base}:active")
        return not waiting + client.zcard(f"{base}:delayed")

    try:
        await eventually_async(settled, within=seconds)
    except AssertionError:
        return

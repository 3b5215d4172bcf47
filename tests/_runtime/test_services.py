"""Services: restarted with backoff while their budget lasts, and never more than asked to stop."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import anyio
import attrs
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from worker_core._observe.metrics import WorkerMetrics
from worker_core._runtime.services import ServiceSurroundings, supervise
from worker_core.service import RestartPolicy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskStatus

CALM = RestartPolicy(
    max_restarts=3,
    window=timedelta(minutes=5),
    initial_backoff=timedelta(seconds=1),
    max_backoff=timedelta(seconds=6),
)


@attrs.define(eq=False)
class ScriptedService:
    """A service whose runs are given; when they are spent it runs until cancelled."""

    runs: list[Callable[[], Awaitable[None]]] = attrs.field(factory=list)
    name: str = "scripted"
    restart: RestartPolicy = CALM
    starts_late: bool = False
    started_at: list[float] = attrs.field(factory=list)
    context: Any = None

    async def run(self, context: Any, *, task_status: TaskStatus[None]) -> None:
        self.context = context
        self.started_at.append(anyio.current_time())
        if not self.starts_late:
            task_status.started()
        await (self.runs.pop(0) if self.runs else anyio.sleep_forever)()


@attrs.define(eq=False)
class Supervision:
    """A supervised service, and what came of it."""

    service: ScriptedService
    spent: list[Exception] = attrs.field(factory=list)
    stops: list[str] = attrs.field(factory=list)
    metrics: WorkerMetrics = attrs.field(factory=lambda: WorkerMetrics("w"))
    ended: bool = False

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        surroundings = ServiceSurroundings(
            worker_id="w",
            redis=cast("Any", None),
            registry=CollectorRegistry(),
            log=cast("Any", None),
            status=cast("Any", None),
            stop=self.stops.append,
        )
        await supervise(
            cast("Any", self.service),
            surroundings,
            self.metrics,
            self.spent.append,
            task_status=task_status,
        )
        self.ended = True

    @property
    def restarts(self) -> float:
        return sum(
            sample.value
            for metric in self.metrics.registry.collect()
            for sample in metric.samples
            if sample.name.endswith("service_restarts_total")
            and sample.labels["service"] == self.service.name
        )

    async def run_for(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self.run()


def crash_after(seconds: float, error: Exception | None = None) -> Callable[[], Awaitable[None]]:
    async def crash() -> None:
        await anyio.sleep(seconds)
        raise error or RuntimeError("crashed")

    return crash


async def nothing() -> None:
    return None


async def test_a_service_that_returns_has_ended_for_good(autojump_clock: object) -> None:
    supervision = Supervision(ScriptedService([nothing]))
    await supervision.run()
    assert supervision.ended
    assert len(supervision.service.started_at) == 1
    assert supervision.spent == []


async def test_a_service_that_crashes_is_started_again(autojump_clock: object) -> None:
    supervision = Supervision(ScriptedService([crash_after(10)]))
    with capture_logs() as logs:
        await supervision.run_for(100)
    assert len(supervision.service.started_at) == 2
    assert supervision.restarts == 1
    assert [entry["service"] for entry in logs] == ["scripted"]
    assert supervision.spent == []


async def test_restarts_back_off_and_no_further_than_the_ceiling(autojump_clock: object) -> None:
    policy = attrs.evolve(CALM, max_restarts=100)
    supervision = Supervision(ScriptedService([crash_after(0)] * 6, restart=policy))
    with capture_logs():
        await supervision.run_for(100)
    starts = supervision.service.started_at
    pauses = [after - before for before, after in itertools.pairwise(starts)]
    for pause, ceiling in zip(pauses, [1, 2, 4, 6, 6, 6], strict=True):
        assert ceiling / 2 <= pause <= ceiling


async def test_a_spent_budget_reports_the_error_and_ends(autojump_clock: object) -> None:
    last = ValueError("the last")
    crashes = [crash_after(0), crash_after(0), crash_after(0), crash_after(0, last)]
    supervision = Supervision(ScriptedService(crashes))
    with capture_logs():
        await supervision.run()
    assert supervision.spent == [last]
    assert supervision.restarts == 3
    assert len(supervision.service.started_at) == 4


async def test_crashes_that_are_long_past_do_not_count(autojump_clock: object) -> None:
    supervision = Supervision(ScriptedService([crash_after(200)] * 20))
    with capture_logs():
        await supervision.run_for(10_000)
    assert supervision.spent == []
    assert len(supervision.service.started_at) == 21


async def test_a_policy_without_restarts_is_spent_by_the_first_crash(
    autojump_clock: object,
) -> None:
    policy = attrs.evolve(CALM, max_restarts=0)
    supervision = Supervision(ScriptedService([crash_after(1)], restart=policy))
    await supervision.run()
    assert [str(error) for error in supervision.spent] == ["crashed"]


async def test_the_worker_waits_for_the_first_start(autojump_clock: object) -> None:
    class Slow(ScriptedService):
        async def run(self, context: Any, *, task_status: TaskStatus[None]) -> None:
            await anyio.sleep(7)
            task_status.started()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        await tasks.start(Supervision(Slow()).run)
        assert anyio.current_time() == 7
        tasks.cancel_scope.cancel()


async def test_a_service_that_returns_before_it_is_ready_is_done(autojump_clock: object) -> None:
    supervision = Supervision(ScriptedService([nothing], starts_late=True))
    async with anyio.create_task_group() as tasks:
        await tasks.start(supervision.run)
    assert supervision.ended
    assert supervision.spent == []
    assert len(supervision.service.started_at) == 1


async def test_a_start_that_crashes_before_it_is_ready_is_a_crash_that_the_worker_survives(
    autojump_clock: object,
) -> None:
    supervision = Supervision(ScriptedService([crash_after(3)] * 4, starts_late=True))
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            await tasks.start(supervision.run)
            assert len(supervision.service.started_at) == 1
    assert len(supervision.spent) == 1
    assert len(logs) == 3


async def test_the_error_reported_is_no_group(autojump_clock: object) -> None:
    inner = ValueError("inner")
    group = ExceptionGroup("outer", [ExceptionGroup("middle", [inner])])
    policy = attrs.evolve(CALM, max_restarts=0)
    supervision = Supervision(ScriptedService([crash_after(0, group)], restart=policy))
    await supervision.run()
    assert supervision.spent == [inner]


async def test_what_a_service_started_ends_with_it(autojump_clock: object) -> None:
    ended: list[float] = []

    async def with_children() -> None:
        async def child() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            await anyio.sleep(5)
            raise RuntimeError("parent")

    supervision = Supervision(ScriptedService([with_children]))
    with capture_logs():
        await supervision.run_for(100)
    assert ended == [5]
    assert len(supervision.service.started_at) == 2


async def test_cancelling_is_no_crash(autojump_clock: object) -> None:
    supervision = Supervision(ScriptedService())
    with capture_logs() as logs:
        await supervision.run_for(10)
    assert logs == []
    assert not supervision.ended
    assert supervision.restarts == 0


async def test_a_service_can_ask_the_worker_to_stop(autojump_clock: object) -> None:
    supervision = Supervision(ScriptedService([nothing]))
    await supervision.run()
    supervision.service.context.request_stop("the disk is full")
    assert supervision.stops == ["the disk is full"]

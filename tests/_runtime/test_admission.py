"""Admission: the wait for a model and a place."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest
from structlog.testing import capture_logs

from tests._runtime.support import LIMITS, MemoryEngine, MemoryHost, task_group
from worker_core._runtime.admission import Admission, AdmissionTimeout, Entry
from worker_core.engine import Operation, Phase
from worker_core.errors import EngineError, FailureClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

MAX_WAIT = timedelta(seconds=600)


@attrs.define(eq=False)
class Caller:
    """One call that asks to be admitted, and what became of it."""

    admission: Admission
    model: str = "llama3"
    operation: Operation = Operation.CHAT
    express: bool = False
    keep_seconds: float = 0.0
    phases: list[Phase] = attrs.field(factory=list)
    admitted_at: float | None = None
    host: object = None
    load_seconds: float | None = None
    error: EngineError | None = None
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)

    @property
    def entry(self) -> Entry:
        return Entry(self.model, self.operation, self.express, self.phases.append)

    async def run(self) -> None:
        with self.scope:
            try:
                async with self.admission.admit(self.entry) as admitted:
                    self.admitted_at = anyio.current_time()
                    self.host = admitted.host
                    self.load_seconds = admitted.load_seconds
                    await anyio.sleep(self.keep_seconds)
            except EngineError as error:
                self.error = error


@pytest.fixture
async def loads() -> AsyncIterator[TaskGroup]:
    """The worker's task group for loads."""
    async with task_group() as tasks:
        yield tasks


@pytest.fixture
def host() -> MemoryHost:
    return MemoryHost()


@pytest.fixture
def admission(host: MemoryHost, loads: TaskGroup) -> Admission:
    return admission_to(loads, host)


def admission_to(loads: TaskGroup, *hosts: MemoryHost, max_wait: timedelta = MAX_WAIT) -> Admission:
    return Admission(MemoryEngine(hosts), loads, max_wait=max_wait)


async def run_all(*callers: Caller) -> None:
    async with anyio.create_task_group() as tasks:
        for caller in callers:
            tasks.start_soon(caller.run)


async def test_a_loaded_model_is_not_loaded_again(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.loaded.add("llama3")
    caller = Caller(admission, model="Llama3:latest")
    await run_all(caller)
    assert caller.host is host
    assert caller.phases == [Phase.WAITING]
    assert host.loads == []


async def test_a_model_that_is_absent_is_loaded_first(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.load_seconds = 40
    began = anyio.current_time()
    caller = Caller(admission)
    await run_all(caller)
    assert caller.phases == [Phase.LOADING, Phase.WAITING]
    assert caller.admitted_at == began + 40
    assert host.loads == [("llama3", Operation.CHAT)]


async def test_many_jobs_share_one_load(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.load_seconds = 40
    callers = [Caller(admission, model=name) for name in ("llama3", "LLAMA3", "llama3:latest") * 4]
    await run_all(*callers)
    assert len(host.loads) == 1
    assert all(caller.host is host for caller in callers)


async def test_a_host_that_answers_late_that_a_model_is_absent_loads_it_once(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    # What the second is told was true when the host looked: before the first one's load.
    host.ps_seconds, host.load_seconds = 4, 1

    async def later() -> None:
        await anyio.sleep(3)
        await Caller(admission).run()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Caller(admission).run)
        tasks.start_soon(later)
    assert len(host.loads) == 1


async def test_a_model_that_was_used_a_moment_ago_is_not_asked_for(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.loaded.add("llama3")
    first = Caller(admission)
    await run_all(first)
    assert host.ps_calls == 1
    admission.succeeded(host, first.entry)
    await anyio.sleep(29)
    await run_all(Caller(admission))
    assert host.ps_calls == 1
    await anyio.sleep(2)
    await run_all(Caller(admission))
    assert host.ps_calls == 2


async def test_after_a_failure_the_host_is_asked_again(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.loaded.add("llama3")
    caller = Caller(admission)
    await run_all(caller)
    admission.failed(host, caller.entry)
    host.loaded.clear()
    await run_all(Caller(admission))
    assert (host.ps_calls, len(host.loads)) == (2, 1)


async def test_a_job_that_gives_up_does_not_abort_the_load(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.load_seconds = 40
    first, second = Caller(admission), Caller(admission)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run)
        tasks.start_soon(second.run)
        await anyio.sleep(10)
        first.scope.cancel()
    assert first.admitted_at is None
    assert second.host is host
    assert (len(host.loads), host.loads_cancelled) == (1, 0)


async def test_a_load_goes_on_when_every_job_has_given_up(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.load_seconds = 40
    caller = Caller(admission)
    with anyio.move_on_after(10):
        await caller.run()
    await anyio.sleep(40)
    assert (host.loads_cancelled, host.loaded) == (0, {"llama3"})


async def test_max_wait_bounds_the_wait_for_the_model(
    autojump_clock: object, host: MemoryHost, loads: TaskGroup
) -> None:
    host.load_seconds = 400
    admission = admission_to(loads, host, max_wait=timedelta(seconds=60))
    began = anyio.current_time()
    caller = Caller(admission)
    await run_all(caller)
    assert anyio.current_time() - began == 60
    assert isinstance(caller.error, AdmissionTimeout)
    assert caller.error.failure is FailureClass.BUSY
    assert "'llama3'" in str(caller.error)
    assert "60 s (worker.max_wait)" in str(caller.error)
    # The load goes on, and who comes next waits for the same one.
    late = Caller(admission)
    with anyio.move_on_after(20):
        await late.run()
    assert (len(host.loads), host.loads_cancelled) == (1, 0)


async def test_max_wait_covers_model_and_place_together(
    autojump_clock: object, host: MemoryHost, loads: TaskGroup
) -> None:
    host.load_seconds = 40
    host.loaded.add("other")
    admission = admission_to(loads, host, max_wait=timedelta(seconds=60))
    began = anyio.current_time()
    blockers = [Caller(admission, model="other", keep_seconds=1000) for _ in range(2)]
    late = Caller(admission)
    async with anyio.create_task_group() as tasks:
        for blocker in blockers:
            tasks.start_soon(blocker.run)
        await anyio.wait_all_tasks_blocked()
        await late.run()
        assert isinstance(late.error, AdmissionTimeout)
        assert anyio.current_time() - began == 60
        assert late.phases == [Phase.LOADING, Phase.WAITING]
        tasks.cancel_scope.cancel()


async def test_a_load_has_a_clock_of_its_own(
    autojump_clock: object, host: MemoryHost, loads: TaskGroup
) -> None:
    host.load_seconds = 10_000
    admission = admission_to(loads, host, max_wait=timedelta(seconds=5000))
    began = anyio.current_time()
    caller = Caller(admission)
    await run_all(caller)
    assert anyio.current_time() - began == 900
    assert caller.error is not None
    assert caller.error.failure is FailureClass.TIMEOUT
    assert str(caller.error) == "timeout: model 'llama3' did not load on memory:1 within 900 s"
    assert host.loads_cancelled == 1


async def test_the_clock_of_a_load_begins_when_it_begins(
    autojump_clock: object, host: MemoryHost, loads: TaskGroup
) -> None:
    host.load_seconds = 700
    admission = admission_to(loads, host, max_wait=timedelta(seconds=5000))
    callers = [Caller(admission, model=model) for model in ("a", "b", "c")]
    await run_all(*callers)
    assert [caller.error for caller in callers] == [None, None, None]


async def test_a_load_that_fails_fails_everyone_who_waits_each_with_an_error_of_his_own(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.load_seconds = 5
    failure = EngineError(FailureClass.OUT_OF_MEMORY, "no room", status=500)
    host.load_errors.append(failure)
    callers = [Caller(admission) for _ in range(3)]
    await run_all(*callers)
    errors = [caller.error for caller in callers]
    assert [str(error) for error in errors] == ["out_of_memory: no room"] * 3
    assert [error.status for error in errors if error] == [500] * 3
    assert len({id(error) for error in [*errors, failure]}) == 4
    assert all(error is not None and error.__cause__ is failure for error in errors)


async def test_after_a_failed_load_the_next_job_begins_another(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.load_errors.append(EngineError(FailureClass.OUT_OF_MEMORY, "no room"))
    first, second = Caller(admission), Caller(admission)
    await run_all(first)
    await run_all(second)
    assert first.error is not None
    assert second.host is host
    assert len(host.loads) == 2


async def test_a_bug_in_an_engines_load_is_a_failure_and_ends_nothing(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.load_errors.append(ZeroDivisionError("oops"))
    caller, after = Caller(admission), Caller(admission)
    with capture_logs() as logs:
        await run_all(caller)
    assert caller.error is not None
    assert caller.error.failure is FailureClass.CRASHED
    assert "oops" in str(caller.error)
    assert any(entry["log_level"] == "error" for entry in logs)
    await run_all(after)
    assert after.host is host


async def test_a_host_that_cannot_be_asked_fails_the_call(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.ps_errors.append(EngineError(FailureClass.UNREACHABLE, "nobody there"))
    caller = Caller(admission)
    await run_all(caller)
    assert str(caller.error) == "unreachable: nobody there"
    assert host.loads == []


async def test_two_models_load_one_after_the_other(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.load_seconds = 10
    began = anyio.current_time()
    one, two = Caller(admission, model="a"), Caller(admission, model="b")
    await run_all(one, two)
    assert host.most_loading == 1
    assert {one.admitted_at, two.admitted_at} == {began + 10, began + 20}


async def test_two_hosts_load_at_the_same_time(autojump_clock: object, loads: TaskGroup) -> None:
    hosts = [MemoryHost(name="one:1", load_seconds=10), MemoryHost(name="two:1", load_seconds=10)]
    admission = admission_to(loads, *hosts)
    began = anyio.current_time()
    callers = [Caller(admission), Caller(admission)]
    await run_all(*callers)
    assert [caller.admitted_at for caller in callers] == [began + 10] * 2
    assert {id(caller.host) for caller in callers} == set(map(id, hosts))


async def test_a_model_is_loaded_for_each_operation(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.keeps_models = False
    await run_all(Caller(admission), Caller(admission, operation=Operation.EMBED))
    assert set(host.loads) == {("llama3", Operation.CHAT), ("llama3", Operation.EMBED)}


async def test_a_model_that_the_host_does_not_list_is_loaded_once_all_the_same(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    # Remote models, for instance, are never listed.
    host.keeps_models = False
    await run_all(Caller(admission))
    await run_all(Caller(admission))
    assert len(host.loads) == 1


async def test_no_more_calls_are_in_flight_than_the_host_allows(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.loaded.add("llama3")
    began = anyio.current_time()
    callers = [Caller(admission, keep_seconds=10) for _ in range(5)]
    await run_all(*callers)
    waits = sorted(
        caller.admitted_at - began for caller in callers if caller.admitted_at is not None
    )
    assert waits == [0, 0, 10, 10, 20]
    assert LIMITS.max_concurrent == 2


async def test_a_place_is_given_back_whatever_ends_the_call(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.loaded.add("llama3")

    async def fail() -> None:
        async with admission.admit(Caller(admission).entry):
            raise EngineError(FailureClass.CRASHED, "x")

    for _ in range(LIMITS.max_concurrent):
        with pytest.raises(EngineError):
            await fail()
        with anyio.move_on_after(1):
            await Caller(admission, keep_seconds=100).run()
    with anyio.fail_after(1):
        await run_all(*(Caller(admission) for _ in range(LIMITS.max_concurrent)))


async def test_express_jobs_are_admitted_first(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.loaded.add("llama3")
    blockers = [Caller(admission, keep_seconds=10) for _ in range(2)]
    slow, fast = Caller(admission, keep_seconds=5), Caller(admission, express=True, keep_seconds=5)
    other = Caller(admission, keep_seconds=5)
    async with anyio.create_task_group() as tasks:
        for caller in (*blockers, slow, other, fast):
            tasks.start_soon(caller.run)
            await anyio.wait_all_tasks_blocked()
    assert fast.admitted_at == slow.admitted_at
    assert other.admitted_at is not None
    assert slow.admitted_at is not None
    assert other.admitted_at > slow.admitted_at


async def test_nobody_waits_for_a_load_when_the_worker_ends(autojump_clock: object) -> None:
    host = MemoryHost(load_seconds=100)
    caller: Caller | None = None
    async with anyio.create_task_group() as jobs, anyio.create_task_group() as loads:
        caller = Caller(admission_to(loads, host))
        jobs.start_soon(caller.run)
        await anyio.wait_all_tasks_blocked()
        loads.cancel_scope.cancel()
    assert caller.error is not None
    assert "the worker is stopping" in str(caller.error)


async def test_how_long_a_load_took_is_logged(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.load_seconds = 12.5
    with capture_logs() as logs:
        await run_all(Caller(admission))
    (entry,) = [entry for entry in logs if entry["event"] == "model loaded"]
    assert (entry["model"], entry["host"], entry["seconds"]) == ("llama3", "memory:1", 12.5)


def away(times: int) -> list[BaseException]:
    return [EngineError(FailureClass.UNREACHABLE, "refused") for _ in range(times)]


async def test_a_host_that_is_away_for_a_while_is_waited_for(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = MemoryHost(loaded={"llama3"}, ps_errors=away(4))
    patient = Admission(
        MemoryEngine((host,)), loads, max_wait=MAX_WAIT, engine_patience=timedelta(seconds=30)
    )
    caller = Caller(patient)
    await run_all(caller)
    assert caller.host is host
    assert caller.admitted_at is not None
    assert 1 < caller.admitted_at < 10


async def test_a_host_that_stays_away_is_given_up_once_patience_is_over(
    autojump_clock: object, loads: TaskGroup
) -> None:
    # Without circuits: one would open before.
    host = MemoryHost(ps_errors=away(1000), limits=attrs.evolve(LIMITS, circuit=None))
    patient = Admission(
        MemoryEngine((host,)), loads, max_wait=MAX_WAIT, engine_patience=timedelta(seconds=30)
    )
    caller = Caller(patient)
    began = anyio.current_time()
    await run_all(caller)
    assert isinstance(caller.error, AdmissionTimeout)
    assert caller.error.failure is FailureClass.UNREACHABLE
    assert "refused" in str(caller.error)
    assert 25 < anyio.current_time() - began <= 30
    assert host.ps_calls < 40


async def test_a_host_that_does_not_say_what_it_has_loaded_is_away(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.ps_seconds = 100_000
    caller = Caller(admission)
    began = anyio.current_time()
    await run_all(caller)
    assert caller.error is not None
    assert caller.error.failure is FailureClass.UNREACHABLE
    assert anyio.current_time() - began == 5


async def test_a_load_makes_every_other_model_be_asked_for(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    # To make room, the host may have thrown out any of them.
    for model in ("llama3", "llama3", "qwen3", "llama3"):
        await run_all(Caller(admission, model=model))
    assert host.ps_calls == 3


async def test_the_wait_for_a_load_is_told(
    autojump_clock: object, host: MemoryHost, admission: Admission
) -> None:
    host.load_seconds = 7
    loading, after = Caller(admission), Caller(admission)
    await run_all(loading)
    await run_all(after)
    assert (loading.load_seconds, after.load_seconds) == (7, None)


# --- Embeddings: one call at a time per host and model ---


def embedder(admission: Admission, model: str = "nomic", **more: object) -> Caller:
    return Caller(admission, model=model, operation=Operation.EMBED, keep_seconds=10, **more)  # type: ignore[arg-type]


async def test_a_model_embeds_for_one_call_at_a_time_however_it_is_spelt(
    autojump_clock: object, loads: TaskGroup
) -> None:
    limits = attrs.evolve(LIMITS, max_concurrent=8)
    admission = admission_to(loads, MemoryHost(limits=limits, loaded={"nomic", "minilm"}))
    names = ["nomic", "Nomic:latest", "nomic"]
    callers = [embedder(admission, name) for name in names]
    other, chat = embedder(admission, "minilm"), Caller(admission, model="nomic", keep_seconds=10)
    await run_all(*callers, other, chat)
    assert sorted(caller.admitted_at or 0 for caller in callers) == [0, 10, 20]
    assert (other.admitted_at, chat.admitted_at) == (0, 0)


async def test_who_waits_for_its_turn_holds_no_place(
    autojump_clock: object, loads: TaskGroup
) -> None:
    limits = attrs.evolve(LIMITS, max_concurrent=2)
    admission = admission_to(loads, MemoryHost(limits=limits, loaded={"nomic", "llama3"}))
    callers = [embedder(admission) for _ in range(5)]
    chat = Caller(admission)
    async with anyio.create_task_group() as tasks:
        for caller in callers:
            tasks.start_soon(caller.run)
        await anyio.sleep(1)
        tasks.start_soon(chat.run)
    assert chat.admitted_at == 1


async def test_express_jobs_embed_first(autojump_clock: object, loads: TaskGroup) -> None:
    admission = admission_to(loads, MemoryHost(loaded={"nomic"}))
    callers = [embedder(admission) for _ in range(3)]
    express = embedder(admission, express=True)
    async with anyio.create_task_group() as tasks:
        for caller in callers:
            tasks.start_soon(caller.run)
        await anyio.sleep(1)
        tasks.start_soon(express.run)
    assert express.admitted_at == 10


async def test_who_gives_up_before_its_turn_takes_none(
    autojump_clock: object, loads: TaskGroup
) -> None:
    admission = admission_to(loads, MemoryHost(loaded={"nomic"}), max_wait=timedelta(seconds=15))
    callers = [embedder(admission) for _ in range(3)]
    async with anyio.create_task_group() as tasks:
        for caller in callers:
            tasks.start_soon(caller.run)
        await anyio.sleep(1)
        # One that waits is cancelled, and one runs into `max_wait`: the turn goes on to the next.
        waiting = [caller for caller in callers if caller.admitted_at is None]
        waiting[0].scope.cancel()
    late = embedder(admission)
    await run_all(late)
    assert late.admitted_at == anyio.current_time() - 10

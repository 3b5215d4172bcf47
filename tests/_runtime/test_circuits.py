"""The circuits of hosts, as admission asks them: what counts on which, and what becomes of calls."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest
from structlog.testing import capture_logs

from tests._runtime.support import LIMITS, MemoryEngine, MemoryHost, task_group
from worker_core._runtime.admission import Admission, Entry
from worker_core._runtime.circuits import Blamed, HostCircuits, blamed, circuit_called, circuit_name
from worker_core.circuit import CircuitChange, CircuitLimits, CircuitState
from worker_core.engine import Operation
from worker_core.errors import CircuitOpen, EngineError, FailureClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

CIRCUIT = CircuitLimits(consecutive=3)
AGAINST_HOST = {FailureClass.UNREACHABLE}
AGAINST_MODEL = {
    FailureClass.TIMEOUT,
    FailureClass.OUT_OF_MEMORY,
    FailureClass.CRASHED,
    FailureClass.INCOMPLETE,
}
CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture
async def loads() -> AsyncIterator[TaskGroup]:
    async with task_group() as tasks:
        yield tasks


def host_with(circuit: CircuitLimits | None = CIRCUIT, name: str = "memory:1") -> MemoryHost:
    limits = attrs.evolve(LIMITS, circuit=circuit)
    return MemoryHost(name=name, limits=limits, loaded={"llama3", "qwen3", "nomic"})


def admission_to(loads: TaskGroup, *hosts: MemoryHost, patience: float = 0.0) -> Admission:
    return Admission(
        MemoryEngine(hosts),
        loads,
        max_wait=timedelta(seconds=600),
        engine_patience=timedelta(seconds=patience),
    )


def entry_for(
    model: str = "llama3",
    operation: Operation = Operation.CHAT,
    changes: list[CircuitChange] | None = None,
) -> Entry:
    tell = None if changes is None else changes.append
    return Entry(model, operation, False, lambda _: None, on_circuit=tell)


async def call(
    admission: Admission, failure: FailureClass | None = None, entry: Entry | None = None
) -> object:
    """Make a call that ends so; return the host that was asked."""
    entry = entry or entry_for()
    async with admission.admit(entry) as admitted:
        if failure is not None:
            admission.failed(admitted.host, entry)
            raise EngineError(failure, "scripted")
        return admitted.host


async def fail(
    admission: Admission, failure: FailureClass, times: int, model: str = "llama3"
) -> None:
    for _ in range(times):
        with pytest.raises(EngineError) as caught:
            await call(admission, failure, entry_for(model))
        assert caught.value.failure is failure


def states(admission: Admission) -> dict[str, CircuitState]:
    return {one.circuit: one.state for one in admission.circuits()}


def test_the_name_of_a_circuit_is_the_same_for_every_spelling_of_its_model() -> None:
    names = {circuit_name(Operation.CHAT, model) for model in ("llama3", "Llama3:latest")}
    assert names == {"chat:llama3"}
    assert circuit_name(Operation.EMBED, "qwen3:8b") == "embeddings:qwen3:8b"
    assert circuit_called("chat:Llama3:latest") == "chat:llama3"
    assert circuit_called("host") == "host"
    assert circuit_called("other:LLAMA3") == "other:LLAMA3"


@pytest.mark.parametrize("failure", FailureClass)
async def test_each_failure_counts_on_the_circuit_that_it_speaks_against(
    autojump_clock: object, loads: TaskGroup, failure: FailureClass
) -> None:
    admission = admission_to(loads, host_with())
    await fail(admission, failure, 3)
    found = {name for name, state in states(admission).items() if state is OPEN}
    if failure in AGAINST_HOST:
        assert blamed(failure) is Blamed.HOST
        assert found == set()  # each look in between says that the host is there
    elif failure in AGAINST_MODEL:
        assert found == {"chat:llama3"}
    else:
        assert blamed(failure) is Blamed.NOBODY
        assert found == set()


async def test_an_open_circuit_refuses_at_once_and_says_until_when(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = host_with()
    admission = admission_to(loads, host)
    await fail(admission, FailureClass.CRASHED, 3)
    asked, now = host.ps_calls, anyio.current_time()
    with pytest.raises(CircuitOpen) as caught:
        await call(admission)
    assert caught.value.failure is FailureClass.CIRCUIT_OPEN
    assert caught.value.retryable
    assert caught.value.circuit == "chat:llama3"
    assert timedelta(seconds=8) <= caught.value.retry_after <= timedelta(seconds=10)
    assert "'chat:llama3' of memory:1 is open; the last failure was: crashed: scripted" in str(
        caught.value
    )
    assert (host.ps_calls, anyio.current_time()) == (asked, now)
    copied = caught.value.copy()
    assert (copied.circuit, copied.retry_after) == ("chat:llama3", caught.value.retry_after)


async def test_other_models_and_operations_go_on(autojump_clock: object, loads: TaskGroup) -> None:
    host = host_with()
    admission = admission_to(loads, host)
    await fail(admission, FailureClass.CRASHED, 3)
    assert not admission.may_run("llama3:latest", Operation.CHAT)
    assert admission.may_run("qwen3", Operation.CHAT)
    assert await call(admission, entry=entry_for("qwen3")) is host
    assert await call(admission, entry=entry_for("llama3", Operation.EMBED)) is host


async def test_it_is_asked_again_when_its_time_is_over_and_closes_when_it_answers(
    autojump_clock: object, loads: TaskGroup
) -> None:
    admission = admission_to(loads, host_with())
    changes: list[CircuitChange] = []
    with capture_logs() as logs:
        for _ in range(3):
            with suppress(EngineError):
                await call(admission, FailureClass.CRASHED, entry_for(changes=changes))
        await anyio.sleep(10)
        assert states(admission)["chat:llama3"] is HALF_OPEN
        await call(admission, entry=entry_for(changes=changes))
    assert states(admission)["chat:llama3"] is CLOSED
    assert changes == [
        CircuitChange("memory:1", "chat:llama3", OPEN),
        CircuitChange("memory:1", "chat:llama3", CLOSED),
    ]
    assert [one["log_level"] for one in logs if "circuit" in one["event"]] == [
        *("warning", "info", "info")
    ]


async def test_a_host_that_cannot_be_looked_at_opens_its_circuit(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = host_with()
    host.ps_errors = [EngineError(FailureClass.UNREACHABLE, "refused") for _ in range(100)]
    admission = admission_to(loads, host, patience=30)
    began = anyio.current_time()
    with pytest.raises(CircuitOpen) as caught:
        await call(admission)
    # Long before its patience is over, and no sooner than it has looked so often.
    assert 0.3 < anyio.current_time() - began < 1
    assert host.ps_calls == 3
    assert caught.value.circuit == "host"
    with pytest.raises(CircuitOpen):
        await call(admission, entry=entry_for("qwen3"))
    assert host.ps_calls == 3
    host.ps_errors.clear()
    await anyio.sleep(10)
    assert await call(admission) is host
    assert states(admission)["host"] is CLOSED


async def test_who_finds_out_that_the_host_is_gone_is_put_back_as_those_behind_it(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = host_with(attrs.evolve(CIRCUIT, consecutive=1))
    host.ps_errors = [EngineError(FailureClass.UNREACHABLE, "refused")]
    with pytest.raises(CircuitOpen):
        await call(admission_to(loads, host))


async def test_a_load_that_fails_counts_once_however_many_wait_for_it(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = host_with()
    host.loaded.clear()
    host.load_seconds = 5
    host.load_errors = [EngineError(FailureClass.OUT_OF_MEMORY, "no room") for _ in range(3)]
    admission = admission_to(loads, host)
    failures: list[EngineError] = []

    async def one() -> None:
        try:
            await call(admission)
        except EngineError as error:
            failures.append(error)

    for turn in range(3):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(one)
        assert len(failures) == 8 * (turn + 1)
        assert states(admission)["chat:llama3"] is (OPEN if turn == 2 else CLOSED)
    # The last one has opened the circuit: none of those who waited for it is at fault.
    assert [isinstance(one, CircuitOpen) for one in failures] == [False] * 16 + [True] * 8
    assert len(host.loads) == 3


async def test_that_a_model_loads_does_not_close_its_circuit(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = host_with()
    admission = admission_to(loads, host)
    await fail(admission, FailureClass.CRASHED, 3)
    host.loaded.clear()
    await anyio.sleep(10)
    await fail(admission, FailureClass.CRASHED, 1)
    assert len(host.loads) == 1
    assert states(admission)["chat:llama3"] is OPEN


async def test_who_waited_for_a_place_while_the_circuit_opened_is_refused(
    autojump_clock: object, loads: TaskGroup
) -> None:
    admission = admission_to(loads, host_with())
    refused: list[str] = []

    async def holds(failure: FailureClass) -> None:
        with suppress(EngineError):
            async with admission.admit(entry_for()):
                await anyio.sleep(10)
                raise EngineError(failure, "scripted")

    async def waits() -> None:
        try:
            await call(admission)
        except CircuitOpen as error:
            refused.append(error.circuit)

    await fail(admission, FailureClass.CRASHED, 1)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(holds, FailureClass.CRASHED)
        await anyio.sleep(1)
        tasks.start_soon(waits)
        tasks.start_soon(waits)
    assert refused == ["chat:llama3", "chat:llama3"]


async def test_of_several_hosts_one_is_asked_whose_circuits_allow_it(
    autojump_clock: object, loads: TaskGroup
) -> None:
    bad, good = host_with(name="bad:1"), host_with(name="good:1")
    bad.ps_errors = [EngineError(FailureClass.UNREACHABLE, "refused") for _ in range(100)]
    admission = admission_to(loads, bad, good, patience=30)
    assert await call(admission) is good
    asked = bad.ps_calls
    assert await call(admission) is good
    assert bad.ps_calls == asked
    assert admission.may_run("llama3", Operation.CHAT)


async def test_who_waited_where_a_circuit_opened_goes_to_another_host(
    autojump_clock: object, loads: TaskGroup
) -> None:
    limits = attrs.evolve(LIMITS, circuit=attrs.evolve(CIRCUIT, consecutive=1), max_concurrent=1)
    full, other = (MemoryHost(name=name, limits=limits, loaded={"llama3"}) for name in "ab")
    admission = admission_to(loads, full, other)
    found: list[object] = []

    async def holds(seconds: float) -> None:
        with suppress(EngineError):
            async with admission.admit(entry_for()) as admitted:
                await anyio.sleep(seconds)
                if admitted.host is full:
                    raise EngineError(FailureClass.CRASHED, "scripted")

    async def waits() -> None:
        found.append(await call(admission))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(holds, 10)
        await anyio.sleep(1)
        tasks.start_soon(holds, 20)
        await anyio.sleep(1)
        tasks.start_soon(waits)
    assert found == [other]


async def test_a_cancelled_probe_leaves_its_place_to_another(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = host_with()
    admission = admission_to(loads, host)
    await fail(admission, FailureClass.CRASHED, 3)
    await anyio.sleep(10)
    with anyio.move_on_after(5):
        async with admission.admit(entry_for()):
            with pytest.raises(CircuitOpen) as caught:
                await call(admission)
            assert caught.value.retry_after == timedelta(seconds=1)
            await anyio.sleep_forever()
    assert states(admission)["chat:llama3"] is HALF_OPEN
    assert await call(admission) is host


@pytest.mark.parametrize("answered", [True, False])
async def test_calls_may_wait_for_the_probe(
    autojump_clock: object, loads: TaskGroup, *, answered: bool
) -> None:
    host = host_with(attrs.evolve(CIRCUIT, when_half_open="wait"))
    admission = admission_to(loads, host)
    await fail(admission, FailureClass.CRASHED, 3)
    await anyio.sleep(10)
    probed = anyio.current_time()
    ended: list[tuple[object, float]] = []

    async def waits() -> None:
        found: object
        try:
            found = await call(admission)
        except CircuitOpen as error:
            found = error.circuit
        ended.append((found, anyio.current_time() - probed))

    async with anyio.create_task_group() as tasks:
        with suppress(EngineError):
            async with admission.admit(entry_for()):
                tasks.start_soon(waits)
                tasks.start_soon(waits)
                await anyio.sleep(7)
                if not answered:
                    raise EngineError(FailureClass.CRASHED, "scripted")
    assert ended == [(host if answered else "chat:llama3", 7)] * 2


async def test_the_model_that_a_job_names_and_nobody_has_leaves_no_circuit(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = host_with()
    admission = admission_to(loads, host)
    for number in range(5):
        host.load_errors = [EngineError(FailureClass.MODEL_MISSING, "not there")]
        with pytest.raises(EngineError, match="model_missing"):
            await call(admission, entry=entry_for(f"no-such-{number}"))
    assert set(states(admission)) == {"host"}


async def test_circuits_that_are_not_used_are_forgotten_unless_they_are_open(
    autojump_clock: object,
) -> None:
    circuits = HostCircuits("h", CIRCUIT, stirred=lambda: None)
    with circuits.call("chat:idle"):
        pass
    for _ in range(3):
        with suppress(EngineError), circuits.call("chat:bad"):
            raise EngineError(FailureClass.CRASHED, "scripted")
    assert [one.circuit for one in circuits.standings()] == ["host", "chat:bad", "chat:idle"]
    await anyio.sleep(1)
    for number in range(300):
        await anyio.sleep(0.001)
        with circuits.call(f"chat:{number}"):
            pass
    names = [one.circuit for one in circuits.standings()]
    assert len(names) <= 101
    assert "chat:bad" in names
    assert "chat:299" in names
    assert "chat:idle" not in names
    await anyio.sleep(3600)
    assert [one.circuit for one in circuits.standings()] == ["host"]


async def test_circuits_are_closed_on_request(autojump_clock: object, loads: TaskGroup) -> None:
    admission = admission_to(loads, host_with(name="a:1"), host_with(name="b:1"))
    for _ in range(3):
        with suppress(EngineError):
            await call(admission, FailureClass.CRASHED)
    assert [one.host for one in admission.circuits() if one.state is OPEN] == ["a:1"]
    assert admission.reset_circuits("chat:other") == []
    assert admission.reset_circuits("chat:LLAMA3:latest", host="b:1") == []
    closed = admission.reset_circuits("chat:LLAMA3:latest")
    assert [(one.host, one.circuit, one.state, one.failures) for one in closed] == [
        ("a:1", "chat:llama3", CLOSED, 0)
    ]
    await call(admission)


async def test_a_host_without_limits_and_a_worker_without_circuits_keep_none(
    autojump_clock: object, loads: TaskGroup
) -> None:
    admissions = [
        admission_to(loads, host_with(None)),
        Admission(
            MemoryEngine((host_with(),)), loads, max_wait=timedelta(seconds=9), circuits=False
        ),
    ]
    for admission in admissions:
        await fail(admission, FailureClass.CRASHED, 20)
        assert admission.circuits() == []
        assert admission.may_run("llama3", Operation.CHAT)
        assert admission.reset_circuits() == []

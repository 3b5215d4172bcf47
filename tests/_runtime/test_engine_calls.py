"""Engine calls of one job: timed, retried before the first token, measured."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests._runtime.support import (
    CHAT,
    EMBED,
    FOR_EVER,
    LIMITS,
    MemoryEngine,
    MemoryHost,
    Step,
    new_scope,
    run_virtual,
    running,
    task_group,
)
from worker_core._runtime.admission import Admission, AdmissionTimeout
from worker_core._runtime.engine_calls import GuardedEngine, shared_out
from worker_core._runtime.engine_use import EngineUse
from worker_core._runtime.no_engine import NoEngine
from worker_core._runtime.scope import JobScope, StopReason
from worker_core.circuit import CircuitLimits
from worker_core.engine import ChatChunk, EmbedCall, EngineProgress, Phase
from worker_core.errors import CircuitOpen, EngineError, FailureClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

RETRIED = {FailureClass.BUSY, FailureClass.UNREACHABLE, FailureClass.CRASHED}


@attrs.define(eq=False)
class Bench:
    """A host in memory, and the engine as a job on it is handed it."""

    host: MemoryHost
    engine: GuardedEngine
    scope: JobScope
    admitted: list[str]

    @property
    def use(self) -> EngineUse:
        return self.engine.use


def bench_in(
    loads: TaskGroup, host: MemoryHost | None = None, *, max_wait: timedelta = timedelta(hours=1)
) -> Bench:
    # Loaded already, so that a call's own times begin at once.
    host = host or MemoryHost(loaded={"llama3", "nomic"})
    scope = new_scope()
    admission = Admission(MemoryEngine((host,)), loads, max_wait=max_wait)
    admitted: list[str] = []
    engine = GuardedEngine(admission, scope, False, admitted.append, EngineUse())
    return Bench(host, engine, scope, admitted)


@pytest.fixture
async def loads() -> AsyncIterator[TaskGroup]:
    async with task_group() as tasks:
        yield tasks


@pytest.fixture
def bench(loads: TaskGroup) -> Bench:
    return bench_in(loads)


async def failure_of(bench: Bench) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await bench.engine.chat(CHAT)
    return caught.value


def failing(failure: FailureClass, *, after: float = 0.0) -> Step:
    return Step(after, EngineError(failure, "scripted"))


# --- The clocks ---


async def test_a_host_that_says_nothing_gave_no_first_token(
    autojump_clock: object, bench: Bench
) -> None:
    bench.host.answers = [[Step(FOR_EVER)]]
    error = await failure_of(bench)
    assert error.failure is FailureClass.TIMEOUT
    assert str(error) == "timeout: memory:1 gave no first token within 120 s"
    assert anyio.current_time() == 120
    assert bench.host.in_flight == 0


async def test_a_host_that_falls_silent_gave_no_next_token(
    autojump_clock: object, bench: Bench
) -> None:
    bench.host.answers = [[Step(100), Step(50), Step(FOR_EVER)]]
    error = await failure_of(bench)
    assert str(error) == "timeout: memory:1 gave no next token within 60 s"
    assert anyio.current_time() == 150 + 60


async def test_a_host_that_never_ends_gave_no_whole_answer(
    autojump_clock: object, bench: Bench
) -> None:
    bench.host.answers = [[Step(50)] * 100]
    error = await failure_of(bench)
    assert str(error) == "timeout: memory:1 gave no whole answer in 300 s"
    assert anyio.current_time() == 300


async def test_each_token_is_a_sign_of_life(autojump_clock: object, bench: Bench) -> None:
    bench.host.answers = [[Step(119), *[Step(59)] * 3]]
    await bench.engine.chat(CHAT)
    assert anyio.current_time() == 119 + 3 * 59


async def test_embedding_has_the_total_clock_alone(autojump_clock: object, bench: Bench) -> None:
    # Vectors come all at once: there is no first token to wait for.
    bench.host.answers = [[Step(FOR_EVER)]]
    with pytest.raises(EngineError, match=r"gave no whole answer in \d+ s"):
        await bench.engine.embed(EMBED)


async def test_a_call_that_unloads_its_model_leaves_it_to_be_asked_for(
    autojump_clock: object, bench: Bench
) -> None:
    await bench.engine.chat(attrs.evolve(CHAT, keep_alive=0))
    await bench.engine.chat(CHAT)
    assert bench.host.ps_calls == 2


async def test_a_total_shorter_than_the_first_token_says_so(
    autojump_clock: object, loads: TaskGroup
) -> None:
    limits = attrs.evolve(LIMITS, total_timeout=timedelta(seconds=10))
    bench = bench_in(loads, MemoryHost(limits=limits, loaded={"llama3"}))
    bench.host.answers = [[Step(FOR_EVER)]]
    assert "no whole answer in 10 s" in str(await failure_of(bench))


@settings(deadline=None, max_examples=60)
@given(
    waits=st.lists(st.integers(0, 150), min_size=1, max_size=8),
    first=st.integers(1, 100),
    between=st.integers(1, 100),
    total=st.integers(1, 300),
)
def test_the_clock_that_ran_out_is_the_one_that_is_named(
    waits: list[int], first: int, between: int, total: int
) -> None:
    # Never at the same moment as a clock: eight of them make no whole second.
    odd = 1 / 16

    async def run() -> tuple[str, float]:
        limits = attrs.evolve(
            LIMITS,
            first_token_timeout=timedelta(seconds=first),
            between_tokens_timeout=timedelta(seconds=between),
            total_timeout=timedelta(seconds=total),
        )
        async with task_group() as loads:
            host = MemoryHost(limits=limits, loaded={"llama3"})
            host.answers = [[*(Step(wait + odd) for wait in waits)]]
            bench = bench_in(loads, host)
            try:
                await bench.engine.chat(CHAT)
            except EngineError as error:
                return error.message, anyio.current_time()
            return "", anyio.current_time()

    said, ended = run_virtual(run)
    # A plain model of the same clocks.
    now, expected = 0.0, ""
    for index, wait in enumerate(waits):
        bound = first if index == 0 else between
        name = "first token" if index == 0 else "next token"
        if now + wait + odd > min(now + bound, total):
            over = now + bound < total
            expected = f"{name} within {bound} s" if over else f"whole answer in {total} s"
            now = min(now + bound, total)
            break
        now += wait + odd
    assert said == (f"memory:1 gave no {expected}" if expected else "")
    assert ended == now


# --- Retries ---


@pytest.mark.parametrize("failure", sorted(RETRIED, key=str))
async def test_what_may_pass_in_a_moment_is_tried_again(
    autojump_clock: object, bench: Bench, failure: FailureClass
) -> None:
    bench.host.answers = [[failing(failure)], [failing(failure)], [Step()]]
    await bench.engine.chat(CHAT)
    assert len(bench.host.calls) == 3


@pytest.mark.parametrize("failure", [one for one in FailureClass if one not in RETRIED])
async def test_everything_else_is_not(
    autojump_clock: object, bench: Bench, failure: FailureClass
) -> None:
    bench.host.answers = [[failing(failure)]]
    assert (await failure_of(bench)).failure is failure
    assert len(bench.host.calls) == 1


async def test_retries_are_bounded_and_the_last_failure_is_told(
    autojump_clock: object, bench: Bench
) -> None:
    bench.host.answers = [[failing(FailureClass.BUSY)] for _ in range(9)]
    assert (await failure_of(bench)).failure is FailureClass.BUSY
    assert len(bench.host.calls) == 1 + LIMITS.max_retries


async def test_a_host_may_forbid_retries(autojump_clock: object, loads: TaskGroup) -> None:
    limits = attrs.evolve(LIMITS, max_retries=0)
    bench = bench_in(loads, MemoryHost(limits=limits, loaded={"llama3"}))
    bench.host.answers = [[failing(FailureClass.BUSY)]]
    await failure_of(bench)
    assert len(bench.host.calls) == 1


async def test_after_the_first_token_nothing_is_tried_again(
    autojump_clock: object, bench: Bench
) -> None:
    bench.host.answers = [[Step(1), failing(FailureClass.CRASHED)]]
    await failure_of(bench)
    assert len(bench.host.calls) == 1


async def test_retries_back_off(autojump_clock: object, bench: Bench) -> None:
    bench.host.answers = [[failing(FailureClass.BUSY)] for _ in range(9)]
    await failure_of(bench)
    first, second, third = bench.host.called_at
    assert 0.25 <= second - first <= 0.5
    assert 0.5 <= third - second <= 1.0


async def test_the_backoff_counts_on_the_jobs_own_clock(
    autojump_clock: object, loads: TaskGroup
) -> None:
    limits = attrs.evolve(LIMITS, max_retries=1000)
    bench = bench_in(loads, MemoryHost(limits=limits, loaded={"llama3"}))
    bench.host.answers = [[failing(FailureClass.BUSY)] for _ in range(1000)]
    with running(bench.scope):
        bench.scope.limit(20)
        await bench.engine.chat(CHAT)
    assert bench.scope.reason is StopReason.DEADLINE
    assert anyio.current_time() == pytest.approx(20)
    assert 4 < len(bench.host.calls) < 20


async def test_a_model_that_was_not_to_be_had_is_not_waited_for_again(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = MemoryHost(load_seconds=1000)
    bench = bench_in(loads, host, max_wait=timedelta(seconds=30))
    assert isinstance(await failure_of(bench), AdmissionTimeout)
    assert anyio.current_time() == 30
    assert host.calls == []


async def test_a_failed_load_is_tried_again_where_it_may_pass(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = MemoryHost(load_errors=[EngineError(FailureClass.CRASHED, "not yet")])
    bench = bench_in(loads, host)
    await bench.engine.chat(CHAT)
    assert (len(host.loads), len(host.calls)) == (2, 1)


async def test_a_failure_makes_the_model_be_asked_for_again(
    autojump_clock: object, bench: Bench
) -> None:
    bench.host.answers = [[failing(FailureClass.CRASHED)]]
    await bench.engine.chat(CHAT)
    assert bench.host.ps_calls == 2
    await bench.engine.chat(CHAT)
    assert bench.host.ps_calls == 2


async def test_a_call_that_has_failed_and_opened_its_circuit_has_failed(
    autojump_clock: object, loads: TaskGroup
) -> None:
    # Else a request that kills its model each time would be put back for ever.
    limits = attrs.evolve(LIMITS, circuit=CircuitLimits(consecutive=2))
    bench = bench_in(loads, MemoryHost(limits=limits, loaded={"llama3"}))
    bench.host.answers = [[failing(FailureClass.CRASHED)] for _ in range(9)]
    assert (await failure_of(bench)).failure is FailureClass.CRASHED
    assert len(bench.host.calls) == 2
    assert isinstance(await failure_of(bench), CircuitOpen)
    assert len(bench.host.calls) == 2


async def test_a_call_whose_host_has_gone_may_be_made_again(
    autojump_clock: object, loads: TaskGroup
) -> None:
    limits = attrs.evolve(LIMITS, circuit=CircuitLimits(consecutive=1))
    bench = bench_in(loads, MemoryHost(limits=limits, loaded={"llama3"}))
    bench.host.answers = [[failing(FailureClass.UNREACHABLE)] for _ in range(9)]
    assert isinstance(await failure_of(bench), CircuitOpen)
    assert len(bench.host.calls) == 1


async def test_what_an_engine_must_not_raise_reaches_the_job_as_it_is(
    autojump_clock: object, bench: Bench
) -> None:
    bench.host.answers = [[Step(0, ZeroDivisionError("bug"))]]
    with pytest.raises(ZeroDivisionError):
        await bench.engine.chat(CHAT)
    assert bench.host.in_flight == 0


# --- The job's clock ---


async def test_the_jobs_clock_stands_still_during_admission(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = MemoryHost(load_seconds=500, answers=[[Step(8)]])
    bench = bench_in(loads, host)
    with running(bench.scope):
        bench.scope.limit(10)
        await bench.engine.chat(CHAT)
    assert bench.scope.reason is None
    assert anyio.current_time() == 508


async def test_the_jobs_clock_covers_the_call(autojump_clock: object, loads: TaskGroup) -> None:
    host = MemoryHost(load_seconds=500, answers=[[Step(50)]])
    bench = bench_in(loads, host)
    with running(bench.scope):
        bench.scope.limit(10)
        await bench.engine.chat(CHAT)
    assert bench.scope.reason is StopReason.DEADLINE
    assert anyio.current_time() == 510
    assert host.in_flight == 0


async def test_cancelling_the_job_ends_the_call_and_frees_its_place(
    autojump_clock: object, bench: Bench
) -> None:
    bench.host.answers = [[Step(FOR_EVER)]] * LIMITS.max_concurrent
    for _ in range(LIMITS.max_concurrent):
        with anyio.move_on_after(1):
            await bench.engine.chat(CHAT)
    assert bench.host.in_flight == 0
    with anyio.fail_after(1):
        await bench.engine.chat(CHAT)


# --- What is told and measured ---


async def test_progress_goes_from_loading_by_waiting_to_generating(
    autojump_clock: object, loads: TaskGroup
) -> None:
    bench = bench_in(loads, MemoryHost(load_seconds=5, answers=[[Step(1), Step(1)]]))
    told: list[EngineProgress] = []
    await bench.engine.chat(CHAT, on_progress=told.append)
    assert told == [
        EngineProgress(Phase.LOADING),
        EngineProgress(Phase.WAITING),
        EngineProgress(Phase.GENERATING),
        EngineProgress(Phase.GENERATING, 1),
        EngineProgress(Phase.GENERATING, 2),
    ]


async def test_the_pieces_of_an_answer_are_handed_on_once_each(
    autojump_clock: object, bench: Bench
) -> None:
    # The first call fails before its first piece, and is made again.
    bench.host.answers = [[failing(FailureClass.BUSY)], [Step(), Step(), Step()]]
    chunks: list[ChatChunk] = []
    await bench.engine.chat(CHAT, on_chunk=chunks.append)
    assert chunks == [ChatChunk("x")] * 3
    assert len(bench.host.calls) == 2


async def test_loading_is_told_only_where_the_model_is_not_listed(
    autojump_clock: object, bench: Bench
) -> None:
    told: list[EngineProgress] = []
    await bench.engine.chat(CHAT, on_progress=told.append)
    assert [progress.phase for progress in told] == [
        Phase.WAITING,
        Phase.GENERATING,
        Phase.GENERATING,
    ]


async def test_what_a_call_used_is_noted(autojump_clock: object, loads: TaskGroup) -> None:
    host = MemoryHost(load_seconds=5, answers=[[Step(2), Step(1)]], warnings=("cut",))
    bench = bench_in(loads, host)
    await bench.engine.chat(CHAT)
    assert bench.use == EngineUse(
        model_asked="llama3",
        model_used="llama3",
        admission_seconds=5,
        # What admission waited for, and what the engine told of its own.
        load_seconds=5.25,
        first_token_seconds=2,
        prompt_tokens=3,
        completion_tokens=5,
        warnings=["cut"],
    )
    assert bench.admitted == ["llama3"]


async def test_several_calls_add_up(autojump_clock: object, bench: Bench) -> None:
    await bench.engine.chat(CHAT)
    await bench.engine.chat(CHAT)
    await bench.engine.embed(EMBED)
    assert (bench.use.prompt_tokens, bench.use.completion_tokens) == (3 + 3 + 2, 10)
    assert (bench.use.model_asked, bench.use.model_used) == ("llama3", "nomic")
    assert bench.admitted == ["llama3", "llama3", "nomic"]


# --- Calls for several jobs ---


@attrs.frozen
class Sharer:
    """Stands for the context of a job that shares a call: all that is asked of it is its engine."""

    bench: Bench

    @property
    def engine(self) -> GuardedEngine:
        return self.bench.engine


def sharers_in(loads: TaskGroup, host: MemoryHost, count: int) -> tuple[list[Bench], list[Any]]:
    first = bench_in(loads, host)
    others = [bench_in(loads, host) for _ in range(count - 1)]
    for other in others:
        other.engine = attrs.evolve(other.engine, admission=first.engine._admission)
    benches = [first, *others]
    return benches, [Sharer(bench) for bench in benches]


async def test_a_shared_call_is_noted_for_every_job_and_its_tokens_add_up(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = MemoryHost(load_seconds=5)
    benches, (a, b, c) = sharers_in(loads, host, 3)
    call = EmbedCall(model="nomic", input=("x" * 50, "", "y" * 10, "z" * 49))
    await a.engine.embed(call, together_with=[a, b, c, b])
    assert host.calls == [call]
    for bench in benches:
        assert bench.admitted == ["nomic"]
        assert (bench.use.model_asked, bench.use.model_used) == ("nomic", "nomic")
        assert (bench.use.admission_seconds, bench.use.load_seconds) == (5, 5)
    tokens = [bench.use.prompt_tokens for bench in benches]
    assert sum(tokens) == 4
    assert tokens == [1, 2, 1]


async def test_the_clocks_of_all_who_share_a_call_stand_still_during_admission(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = MemoryHost(load_seconds=100, answers=[[Step(3)]])
    benches, sharers = sharers_in(loads, host, 2)
    for bench in benches:
        bench.scope.limit(10)
    await sharers[0].engine.embed(EMBED, together_with=sharers)
    assert [bench.scope.seconds_left for bench in benches] == [7, 7]


async def test_a_job_that_has_gone_is_told_nothing_of_the_call_that_it_shared(
    autojump_clock: object, loads: TaskGroup
) -> None:
    benches, sharers = sharers_in(loads, MemoryHost(load_seconds=100), 2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(sharers[0].engine.embed, EMBED, together_with=sharers))
        await anyio.sleep(1)
        benches[1].scope.cancel(StopReason.DRAIN)
    assert (benches[0].admitted, benches[1].admitted) == (["nomic"], [])


async def test_a_call_is_express_where_one_of_its_jobs_is(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = MemoryHost(loaded={"nomic"}, answers=[[Step(10)]])
    benches, sharers = sharers_in(loads, host, 3)
    benches[2].engine.express = True
    plain = EmbedCall(model="nomic", input=("plain",))
    async with anyio.create_task_group() as tasks:
        for call, owners in (
            (EMBED, [sharers[0]] * 2),
            (plain, [sharers[0]]),
            (EMBED, sharers[1:]),
        ):
            tasks.start_soon(partial(owners[0].engine.embed, call, together_with=owners))
            await anyio.sleep(1)
    assert host.calls == [EMBED, EMBED, plain]


async def test_a_shared_call_names_the_job_of_each_input(loads: TaskGroup) -> None:
    _, sharers = sharers_in(loads, MemoryHost(), 3)
    with pytest.raises(ValueError, match="3 for 2"):
        await sharers[0].engine.embed(EMBED, together_with=sharers)


async def test_who_waits_for_a_call_that_another_makes_waits_on_admissions_time(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = MemoryHost(load_seconds=100, answers=[[Step(3)]])
    (a, b), sharers = sharers_in(loads, host, 2)
    b.scope.limit(10)

    async def call() -> None:
        await anyio.sleep(50)
        await sharers[0].engine.embed(EMBED, together_with=sharers)
        answered.set()

    answered = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        with running(b.scope), b.engine.waiting("nomic"):
            await answered.wait()
    assert b.scope.reason is None
    assert b.scope.seconds_left == 7
    assert (a.use.admission_seconds, b.use.admission_seconds) == (100, 150)


async def test_nobody_waits_for_a_call_for_ever_and_one_that_began_has_its_own_clocks(
    autojump_clock: object, loads: TaskGroup
) -> None:
    bench = bench_in(loads, max_wait=timedelta(seconds=30))
    said = r"no call of model 'nomic' began within 30 s"
    with pytest.raises(AdmissionTimeout, match=said), bench.engine.waiting("nomic"):
        await anyio.sleep_forever()
    bench.host.answers = [[Step(100)]]
    with bench.engine.waiting("nomic"):
        await bench.engine.embed(EMBED)
    assert bench.use.admission_seconds == 30
    assert anyio.current_time() == 130


@given(total=st.integers(0, 10**6), sizes=st.lists(st.integers(0, 10**5), min_size=1, max_size=40))
def test_shares_add_up_and_are_within_one_of_their_part(total: int, sizes: list[int]) -> None:
    shares = shared_out(total, sizes)
    weights = [max(size, 1) for size in sizes]
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) < 1 + 1e-6


async def test_the_wait_of_every_attempt_counts_as_admission(
    autojump_clock: object, loads: TaskGroup
) -> None:
    host = MemoryHost(load_seconds=5, keeps_models=False)
    host.answers = [[failing(FailureClass.CRASHED)], [Step()]]
    bench = bench_in(loads, host)
    await bench.engine.chat(CHAT)
    assert bench.use.admission_seconds == 10


async def test_without_an_engine_a_call_says_what_to_set() -> None:
    for call in (NoEngine().chat(CHAT), NoEngine().embed(EMBED)):
        with pytest.raises(EngineError, match=r"no engine; set \[worker\] engine"):
            await call

"""The fallback chain: who is asked, in which order, how often; and what a call becomes by it."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests._runtime.support import (
    CHAT,
    EMBED,
    FOR_EVER,
    MemoryEngine,
    MemoryHost,
    Step,
    new_scope,
    run_virtual,
    running,
    task_group,
)
from worker_core._observe.metrics import FallbackOutcome
from worker_core._runtime.admission import Admission
from worker_core._runtime.engine_calls import GuardedEngine
from worker_core._runtime.engine_use import EngineUse
from worker_core._runtime.fallbacks import FallbackChain
from worker_core._runtime.known_models import KnownModels
from worker_core._runtime.scope import StopReason
from worker_core.engine import (
    ChatAnswer,
    ChatCall,
    ChatChunk,
    EmbedAnswer,
    EmbedCall,
    Message,
    ModelInfo,
    Operation,
)
from worker_core.errors import EngineError, FailureClass
from worker_core.fallback import (
    Adjusted,
    AskedCall,
    Asker,
    CallLimits,
    FailedCall,
    Fallback,
    FallbackAnswer,
)
from worker_core.job import Job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from anyio.abc import TaskGroup

    from worker_core.redis import Redis

ALL = frozenset(FailureClass)
KEPT = ChatAnswer(model="old", message=Message("assistant", "kept", thinking="hm"), warnings=("w",))
KEPT_VECTORS = EmbedAnswer(model="old", embeddings=((1.0,), (2.0,)))
NO_REDIS = cast("Redis", None)


def job(job_id: str = "1") -> Job:
    return Job(
        id=job_id, queue="q", name="n", type="chat", attempt=1, max_attempts=1, priority=0, created_ms=0
    )  # fmt: skip


class Scripted(Fallback):
    """Says what it is told to, one after the other; then it passes."""

    name = "scripted"

    def __init__(
        self, *script: object, name: str = "scripted", handles: frozenset[FailureClass] = ALL
    ) -> None:
        self.name = name  # type: ignore[misc]  # several in one test
        self.handles = handles
        self.script = list(script)
        self.failed: list[FailedCall] = []

    async def answer(self, failed: FailedCall) -> FallbackAnswer | Adjusted | None:
        self.failed.append(failed)
        said = self.script.pop(0) if self.script else None
        if isinstance(said, Exception):
            raise said
        return cast("FallbackAnswer | Adjusted | None", said)


class Listening(Scripted):
    """Is told of answers, and may have one before."""

    def __init__(self, *script: object, early: object = None, seconds: float = 0.0) -> None:
        super().__init__(*script, name="listening")
        self.early = early
        self.seconds = seconds
        self.told: list[tuple[AskedCall, object]] = []

    async def before(self, asked: AskedCall) -> FallbackAnswer | None:
        if isinstance(self.early, Exception):
            raise self.early
        return cast("FallbackAnswer | None", self.early)

    async def answered(self, asked: AskedCall, answer: ChatAnswer | EmbedAnswer) -> None:
        await anyio.sleep(self.seconds)
        self.told.append((asked, answer))
        if self.seconds:
            raise RuntimeError("told, and broken")


@attrs.define(eq=False)
class Bench:
    """A host in memory, and the engine of a job with fallbacks."""

    host: MemoryHost
    engine: GuardedEngine
    counted: list[tuple[str, FallbackOutcome]]
    chain: FallbackChain

    @property
    def use(self) -> EngineUse:
        return self.engine.use

    @property
    def models_called(self) -> list[str]:
        return [call.model for call in self.host.calls]


def bench_in(loads: TaskGroup, *strategies: Fallback, host: MemoryHost | None = None) -> Bench:
    host = host or MemoryHost(loaded={"llama3", "nomic", "b", "c"})
    # Circuits have tests of their own; here a model may fail as often as it likes.
    wait = timedelta(hours=1)
    admission = Admission(MemoryEngine((host,)), loads, max_wait=wait, circuits=False)
    known = KnownModels((host,), admission.may_run)
    counted: list[tuple[str, FallbackOutcome]] = []
    chain = FallbackChain(
        strategies,
        models=known.of,
        redis=NO_REDIS,
        count=lambda name, outcome: counted.append((name, outcome)),
    )
    engine = engine_of(admission, chain)
    return Bench(host, engine, counted, chain)


def engine_of(
    admission: Admission, chain: FallbackChain, job_id: str = "1", tenant: str | None = "acme"
) -> GuardedEngine:
    return GuardedEngine(
        admission,
        new_scope(),
        False,
        lambda _: None,
        EngineUse(),
        fallbacks=chain,
        asker=lambda: Asker(job=job(job_id), tenant=tenant),
    )


@pytest.fixture
async def loads() -> AsyncIterator[TaskGroup]:
    async with task_group() as tasks:
        yield tasks


def fails(failure: FailureClass = FailureClass.TIMEOUT, *, after: int = 0) -> Sequence[Step]:
    """An answer that fails after so many pieces."""
    return [*[Step()] * after, Step(0, EngineError(failure, "scripted"))]


def other(model: str, **options: Any) -> Adjusted:
    return Adjusted(call=attrs.evolve(CHAT, model=model), **options)


# --- A call that goes well ---


async def test_nobody_is_asked_about_a_call_that_goes_well(loads: TaskGroup) -> None:
    quiet, listening = Scripted(FallbackAnswer(answer=KEPT)), Listening()
    bench = bench_in(loads, quiet, listening)
    answer = await bench.engine.chat(CHAT)
    assert answer.model == "llama3"
    assert quiet.failed == listening.failed == bench.counted == []
    [(asked, told)] = listening.told
    assert told is answer
    assert asked.call is CHAT
    assert asked.askers == (Asker(job=job(), tenant="acme"),)
    assert bench.use.fallback is None


async def test_who_is_told_may_neither_hold_up_nor_fail_a_job(
    autojump_clock: object, loads: TaskGroup
) -> None:
    for seconds, event in ((FOR_EVER, "too slow"), (0.1, "raised")):
        bench = bench_in(loads, Listening(seconds=seconds))
        began = anyio.current_time()
        with capture_logs() as logs:
            assert (await bench.engine.chat(CHAT)).model == "llama3"
        assert anyio.current_time() - began <= 0.25
        [entry] = logs
        assert event in entry["event"]
        assert entry["strategy"] == "listening"


# --- A call that fails ---


async def test_an_adjusted_call_answers(loads: TaskGroup) -> None:
    strategy = Scripted(other("b", detail={"why": "smaller"}))
    bench = bench_in(loads, strategy)
    bench.host.answers = [fails()]
    answer = await bench.engine.chat(CHAT)
    assert answer.model == "b"
    assert bench.models_called == ["llama3", "b"]
    use = bench.use
    assert (use.model_asked, use.model_used) == ("llama3", "b")
    assert use.fallback is not None
    assert use.fallback.strategy == "scripted"
    assert use.fallback.reason == "timeout: scripted"
    assert use.fallback.detail == {"why": "smaller"}
    assert (use.prompt_tokens, use.completion_tokens) == (3, 5)
    assert bench.counted == [("scripted", FallbackOutcome.ANSWERED)]
    [failed] = strategy.failed
    assert failed.tried == {"llama3:latest"}
    assert failed.error.failure is FailureClass.TIMEOUT
    assert failed.time_left is None


async def test_a_kept_answer_costs_nothing_of_the_engine(loads: TaskGroup) -> None:
    bench = bench_in(loads, Scripted(FallbackAnswer(answer=KEPT, detail={"age_seconds": 1.5})))
    bench.host.answers = [fails()]
    assert await bench.engine.chat(CHAT) is KEPT
    use = bench.use
    assert (use.model_asked, use.model_used) == ("llama3", "old")
    assert (use.prompt_tokens, use.completion_tokens) == (0, 0)
    assert use.warnings == ["w"]
    assert bench.models_called == ["llama3"]


async def test_a_strategy_is_asked_again_until_it_passes(loads: TaskGroup) -> None:
    first, second = Scripted(other("b"), other("c"), name="first"), Scripted(name="second")
    bench = bench_in(loads, first, second)
    bench.host.answers = [fails(), fails(FailureClass.OUT_OF_MEMORY), fails()]
    with pytest.raises(EngineError) as caught:
        await bench.engine.chat(CHAT)
    assert str(caught.value) == "timeout: scripted"
    assert caught.value.__notes__ == [
        "first with 'b' failed too: out_of_memory: scripted",
        "first with 'c' failed too: timeout: scripted",
    ]
    assert [len(failed.ways) for failed in first.failed] == [1, 2, 3]
    last = second.failed[0]
    assert last.tried == {"llama3:latest", "b:latest", "c:latest"}
    assert [way.strategy for way in last.ways] == [None, "first", "first"]
    assert bench.counted == [
        ("first", FallbackOutcome.FAILED),
        ("second", FallbackOutcome.PASSED),
    ]
    assert bench.use.fallback is None


async def test_the_reason_is_the_first_failure(loads: TaskGroup) -> None:
    first, second = Scripted(other("b"), name="first"), Scripted(other("c"), name="second")
    bench = bench_in(loads, first, second)
    bench.host.answers = [fails(), fails(FailureClass.OUT_OF_MEMORY)]
    assert (await bench.engine.chat(CHAT)).model == "c"
    assert bench.use.fallback is not None
    assert bench.use.fallback.strategy == "second"
    assert bench.use.fallback.reason == "timeout: scripted"


@pytest.mark.parametrize("failure", list(FailureClass))
async def test_a_strategy_is_asked_about_what_it_handles_alone(
    autojump_clock: object, loads: TaskGroup, failure: FailureClass
) -> None:
    without = Scripted(FallbackAnswer(answer=KEPT), name="without", handles=ALL - {failure})
    only = Scripted(FallbackAnswer(answer=KEPT), name="only", handles=frozenset({failure}))
    bench = bench_in(loads, without, only)
    bench.host.answers = [fails(failure)] * 3
    await bench.engine.chat(CHAT)
    assert without.failed == []
    assert bench.counted == [("only", FallbackOutcome.ANSWERED)]


@pytest.mark.parametrize(
    "said",
    [
        RuntimeError("broken"),
        ExceptionGroup("broken", [ValueError("a"), EngineError(FailureClass.BUSY, "b")]),
        EngineError(FailureClass.BUSY, "of its own"),
        "nonsense",
        FallbackAnswer(answer=KEPT_VECTORS),
        Adjusted(call=EMBED),
    ],
    ids=repr,
)
async def test_a_strategy_that_breaks_its_contract_is_named_and_passed_over(
    loads: TaskGroup, said: object
) -> None:
    bench = bench_in(
        loads, Scripted(said, name="broken"), Scripted(FallbackAnswer(answer=KEPT), name="fine")
    )
    bench.host.answers = [fails()]
    with capture_logs() as logs:
        assert await bench.engine.chat(CHAT) is KEPT
    assert [entry["strategy"] for entry in logs if entry["log_level"] == "error"] == ["broken"]
    assert bench.counted == [
        ("broken", FallbackOutcome.FAILED),
        ("fine", FallbackOutcome.ANSWERED),
    ]


class ByModel(MemoryHost):
    """A host on which the model `b` answers, and no other."""

    async def chat(self, call: ChatCall, on_chunk: Callable[[ChatChunk], None]) -> ChatAnswer:
        self.answers = [[Step()] if call.model == "b" else fails()]
        return await super().chat(call, on_chunk)


SAYINGS = ("pass", "raise", "keep", "adjust well", "adjust badly")


def expectation(scripts: Sequence[Sequence[str]]) -> tuple[str | None, int]:
    """Return who answers, and how many calls are adjusted: the chain in plain words."""
    calls = 0
    for index, script in enumerate(scripts):
        for saying in script:
            if saying in {"pass", "raise"}:
                break
            if saying == "keep":
                return str(index), calls
            if calls == 8:
                break
            calls += 1
            if saying == "adjust well":
                return str(index), calls
    return None, calls


@given(st.lists(st.lists(st.sampled_from(SAYINGS), max_size=12), max_size=4))
@example([["adjust badly"] * 12])
@example([["adjust badly"] * 7, ["adjust badly"] * 4, ["keep"]])
@example([["adjust badly"] * 8, ["adjust well"]])
def test_the_chain_goes_in_order_and_ends(scripts: list[list[str]]) -> None:
    said: dict[str, Callable[[], object]] = {
        "pass": lambda: None,
        "raise": lambda: RuntimeError("broken"),
        "keep": lambda: FallbackAnswer(answer=KEPT),
        "adjust well": lambda: other("b"),
        "adjust badly": lambda: other("c"),
    }
    strategies = [
        Scripted(*(said[saying]() for saying in script), name=str(index))
        for index, script in enumerate(scripts)
    ]

    async def main() -> tuple[str | None, int]:
        with capture_logs():
            async with task_group() as loads:
                bench = bench_in(loads, *strategies, host=ByModel(loaded={"llama3", "b", "c"}))
                with suppress(EngineError):
                    await bench.engine.chat(CHAT)
                fallback = bench.use.fallback
                return fallback.strategy if fallback else None, len(bench.host.calls) - 1

    assert run_virtual(main) == expectation(scripts)


# --- Clocks ---


async def test_an_adjusted_call_may_have_shorter_clocks_and_no_longer_ones(
    autojump_clock: object, loads: TaskGroup
) -> None:
    short = CallLimits(first_token_timeout=timedelta(seconds=7))
    long = CallLimits(
        first_token_timeout=timedelta(days=1),
        between_tokens_timeout=timedelta(seconds=3),
        total_timeout=timedelta(days=1),
    )
    calls = (other("b", limits=limits) for limits in (short, long, long))
    bench = bench_in(loads, Scripted(*calls))
    silent = [Step(FOR_EVER)]
    bench.host.answers = [silent, silent, [Step(100), Step(FOR_EVER)], silent]
    with pytest.raises(EngineError) as caught:
        await bench.engine.chat(CHAT)
    assert str(caught.value) == "timeout: memory:1 gave no first token within 120 s"
    assert [note.partition("gave ")[2] for note in caught.value.__notes__] == [
        "no first token within 7 s",
        "no next token within 3 s",
        "no first token within 120 s",
    ]
    assert anyio.current_time() == 120 + 7 + (100 + 3) + 120


async def test_the_jobs_own_clock_ends_it_all(autojump_clock: object, loads: TaskGroup) -> None:
    strategy = Scripted(other("b"), other("b"), other("b"))
    bench = bench_in(loads, strategy)
    bench.host.answers = [[Step(FOR_EVER)]] * 4
    scope = bench.engine.scope
    with running(scope):
        scope.limit(200)
        await bench.engine.chat(CHAT)
    assert scope.reason is StopReason.DEADLINE
    assert anyio.current_time() == 200
    assert [failed.time_left for failed in strategy.failed] == [timedelta(seconds=80)]


async def test_a_cancelled_job_is_not_asked_about(autojump_clock: object, loads: TaskGroup) -> None:
    strategy = Scripted(FallbackAnswer(answer=KEPT))
    bench = bench_in(loads, strategy)
    bench.host.answers = [[Step(FOR_EVER)]]
    scope = bench.engine.scope
    with running(scope):
        loads.start_soon(partial(_cancel_after, 5, scope.cancel))
        await bench.engine.chat(CHAT)
    assert scope.reason is StopReason.CANCELLED
    assert strategy.failed == []


async def _cancel_after(seconds: float, cancel: Callable[[StopReason], None]) -> None:
    await anyio.sleep(seconds)
    cancel(StopReason.CANCELLED)


# --- What is put out ---


@pytest.mark.parametrize("pieces", [0, 2])
@pytest.mark.parametrize("kept", [False, True])
async def test_an_answer_that_begins_anew_says_so_where_pieces_were_out(
    loads: TaskGroup, pieces: int, kept: bool
) -> None:
    bench = bench_in(loads, Scripted(FallbackAnswer(answer=KEPT) if kept else other("b")))
    bench.host.answers = [fails(after=pieces)]
    chunks: list[ChatChunk] = []
    counts: list[int] = []
    await bench.engine.chat(
        CHAT, on_chunk=chunks.append, on_progress=lambda p: counts.append(p.tokens)
    )
    new = ChatChunk("kept", "hm") if kept else ChatChunk("x")
    restart = [ChatChunk(restart=True)] if pieces else []
    assert chunks == [*[ChatChunk("x")] * pieces, *restart, new]
    assert counts[-1] == 1


# --- Before a call ---


async def test_an_answer_before_the_call_spares_it(loads: TaskGroup) -> None:
    listening = Listening(early=FallbackAnswer(answer=KEPT, detail={"age_seconds": 2}))
    bench = bench_in(loads, listening)
    chunks: list[ChatChunk] = []
    assert await bench.engine.chat(CHAT, on_chunk=chunks.append) is KEPT
    assert bench.host.calls == []
    assert chunks == [ChatChunk("kept", "hm")]
    assert bench.use.fallback is not None
    assert bench.use.fallback.reason is None
    assert bench.counted == [("listening", FallbackOutcome.ANSWERED)]
    assert listening.told == []


@pytest.mark.parametrize(
    "early", [RuntimeError("broken"), FallbackAnswer(answer=KEPT_VECTORS)], ids=repr
)
async def test_a_broken_answer_before_the_call_changes_nothing(
    loads: TaskGroup, early: object
) -> None:
    bench = bench_in(loads, Listening(early=early))
    with capture_logs() as logs:
        assert (await bench.engine.chat(CHAT)).model == "llama3"
    assert [entry["strategy"] for entry in logs] == ["listening"]


# --- Embeddings ---


async def test_a_call_of_several_jobs_is_answered_for_all_of_them(loads: TaskGroup) -> None:
    strategy = Scripted(
        FallbackAnswer(answer=KEPT_VECTORS), Adjusted(call=attrs.evolve(EMBED, model="b"))
    )
    bench = bench_in(loads, strategy)
    admission = bench.engine._admission
    first, second = (
        engine_of(admission, bench.chain, job_id, tenant)
        for job_id, tenant in (("1", "acme"), ("2", None))
    )
    contexts = [cast("Any", attrs.make_class("Held", ["engine"])(one)) for one in (first, second)]
    for model in ("old", "b"):
        bench.host.answers = [fails()]
        answer = await first.embed(EMBED, together_with=contexts)
        assert answer.model == model
        for one in (first, second):
            assert one.use.model_used == model
            assert one.use.fallback is not None
        assert strategy.failed[-1].asked.askers == (
            Asker(job=job("1"), tenant="acme"),
            Asker(job=job("2"), tenant=None),
        )
    # The kept vectors have cost nothing.
    assert (first.use.prompt_tokens, second.use.prompt_tokens) == (1, 1)
    assert isinstance(strategy.failed[0].asked.call, EmbedCall)


# --- What is known of models ---


class Describing(MemoryHost):
    """Knows some models, and counts how often it is asked."""

    infos: dict[str, ModelInfo]
    asked: int
    hangs: bool = False

    async def describe(self, model: str) -> ModelInfo | None:
        self.asked += 1
        if self.hangs:
            await anyio.sleep_forever()
        if model not in self.infos:
            raise EngineError(FailureClass.MODEL_MISSING, "not here")
        return self.infos[model]


def describing(**infos: ModelInfo) -> Describing:
    host = Describing()
    host.infos, host.asked = infos, 0
    return host


def known(*hosts: MemoryHost) -> Any:
    return KnownModels(hosts, lambda model, operation: True).of(Operation.CHAT)


async def test_what_a_host_tells_is_kept_for_a_while(autojump_clock: object) -> None:
    host = describing(a=ModelInfo(context_length=8))
    models = known(host)
    for _ in range(3):
        assert await models.describe("a") == ModelInfo(context_length=8)
    assert host.asked == 1
    await anyio.sleep(301)
    assert await models.describe("a") == ModelInfo(context_length=8)
    assert host.asked == 2


async def test_a_model_that_is_missing_is_asked_for_again_soon(autojump_clock: object) -> None:
    host = describing()
    models = known(host)
    for _ in range(2):
        with pytest.raises(EngineError, match="not here"):
            await models.describe("a")
    assert host.asked == 1
    await anyio.sleep(31)
    host.infos["a"] = ModelInfo()
    assert await models.describe("a") == ModelInfo()


async def test_a_host_that_does_not_answer_is_not_one_without_the_model(
    autojump_clock: object,
) -> None:
    slow, empty = describing(), describing()
    slow.hangs = True
    for hosts in ((slow, empty), (empty, slow)):
        with pytest.raises(EngineError, match="did not tell within 5 s") as caught:
            await known(*hosts).describe("a")
        assert caught.value.failure is FailureClass.UNREACHABLE
    empty.infos["a"] = ModelInfo()
    assert await known(slow, empty).describe("a") == ModelInfo()


async def test_an_engine_that_cannot_tell_says_so() -> None:
    assert await known(MemoryHost()).describe("a") is None


async def test_a_call_with_a_context_of_its_own_loads_its_model_itself(loads: TaskGroup) -> None:
    bench = bench_in(loads)
    bench.host.loaded.clear()
    await bench.engine.chat(attrs.evolve(CHAT, context_length=512))
    assert bench.host.loads == []
    await bench.engine.chat(CHAT)
    assert bench.host.loads == [("llama3", Operation.CHAT)]

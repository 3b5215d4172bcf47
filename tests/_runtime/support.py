"""What several tests of the runtime share: a host in memory, and stepping through virtual time."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import anyio
import attrs
import trio
import trio.testing

from worker_core._runtime.scope import JobScope
from worker_core.engine import (
    ChatAnswer,
    ChatCall,
    ChatChunk,
    EmbedAnswer,
    EmbedCall,
    Engine,
    Host,
    HostLimits,
    Message,
    Operation,
)
from worker_core.model_name import canonical_model_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from anyio.abc import TaskGroup

T = TypeVar("T")

FOR_EVER = math.inf
CHAT = ChatCall(model="llama3", messages=(Message("user", "hi"),))
EMBED = EmbedCall(model="nomic", input=("a", "b"))
LIMITS = HostLimits(
    max_concurrent=2,
    max_retries=2,
    first_token_timeout=timedelta(seconds=120),
    between_tokens_timeout=timedelta(seconds=60),
    total_timeout=timedelta(seconds=300),
    load_timeout=timedelta(seconds=900),
)


def run_virtual(main: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run in an event loop whose clock jumps over every wait; for tests made by hypothesis."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(main, *args, clock=clock, strict_exception_groups=True)


@attrs.frozen
class Step:
    """One step of an answer: seconds to wait, then a chunk, or an error."""

    seconds: float = 0.0
    error: BaseException | None = None


@attrs.define(eq=False)
class MemoryHost(Host):
    """`worker_core.engine.Host` in memory: a script of answers, and a record of what was asked."""

    name: str = "memory:1"
    limits: HostLimits = LIMITS
    answers: list[Sequence[Step]] = attrs.field(factory=list)
    """One for each call to come; when they are spent, one chunk at once."""
    load_seconds: float = 0.0
    load_errors: list[BaseException] = attrs.field(factory=list)
    ps_seconds: float = 0.0
    ps_errors: list[BaseException] = attrs.field(factory=list)
    loaded: set[str] = attrs.field(factory=set)
    keeps_models: bool = True
    """Whether a loaded model is listed afterwards."""
    calls: list[ChatCall | EmbedCall] = attrs.field(factory=list)
    called_at: list[float] = attrs.field(factory=list)
    ps_calls: int = 0
    loads: list[tuple[str, Operation]] = attrs.field(factory=list)
    loading: int = 0
    most_loading: int = 0
    loads_cancelled: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    warnings: tuple[str, ...] = ()

    async def chat(self, call: ChatCall, on_chunk: Callable[[ChatChunk], None]) -> ChatAnswer:
        await self._answer(call, lambda: on_chunk(ChatChunk("x")))
        return ChatAnswer(
            model=call.model,
            message=Message("assistant", "x"),
            prompt_eval_count=3,
            eval_count=5,
            load_duration=250_000_000,
            warnings=self.warnings,
        )

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        await self._answer(call, lambda: None)
        return EmbedAnswer(
            model=call.model,
            embeddings=tuple((0.5,) for _ in call.input),
            prompt_eval_count=len(call.input),
        )

    async def _answer(self, call: ChatCall | EmbedCall, chunk: Callable[[], None]) -> None:
        self.calls.append(call)
        self.called_at.append(anyio.current_time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            for step in self.answers.pop(0) if self.answers else [Step()]:
                await anyio.sleep(step.seconds)
                if step.error is not None:
                    raise step.error
                chunk()
        finally:
            self.in_flight -= 1

    async def loaded_models(self) -> frozenset[str]:
        self.ps_calls += 1
        # What is listed is what was so when the host looked, not when its answer arrives.
        listed = frozenset(canonical_model_name(name) for name in self.loaded)
        await anyio.sleep(self.ps_seconds)
        if self.ps_errors:
            raise self.ps_errors.pop(0)
        return listed

    async def load(self, model: str, operation: Operation) -> None:
        self.loads.append((model, operation))
        self.loading += 1
        self.most_loading = max(self.most_loading, self.loading)
        try:
            await anyio.sleep(self.load_seconds)
        except BaseException:
            self.loads_cancelled += 1
            raise
        finally:
            self.loading -= 1
        if self.load_errors:
            raise self.load_errors.pop(0)
        if self.keeps_models:
            self.loaded.add(model)

    async def check(self) -> None:
        return None


@attrs.frozen
class MemoryEngine(Engine):
    """`worker_core.engine.Engine` around hosts in memory."""

    hosts: tuple[MemoryHost, ...]
    name: str = "memory"

    async def __aenter__(self) -> MemoryEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """A task group that is cancelled at its end, and whose errors come out as they are."""
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as error:  # noqa: BLE001  # raised again outside of the group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def new_scope() -> JobScope:
    """The scope of a job in a shield of its own."""
    return JobScope(trio.CancelScope(shield=True))


@contextmanager
def running(scope: JobScope) -> Iterator[None]:
    """Run the body as the job; what stopped it is noted as the worker does."""
    with scope._shield as shield:
        yield
    if shield.cancelled_caught:
        scope.note_stop()

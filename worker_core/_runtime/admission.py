"""Admission: the wait for a model and a place on a host, before a call may begin.

A load belongs to the worker, not to the job that needed it first: it runs in the worker's own task
group with a long clock of its own, once for all who wait, one at a time on each host. A job that
gives up leaves it running. Only so can loading, queueing and generating be told apart, for on the
wire the first byte covers all three.
"""

from __future__ import annotations

import random
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import attrs
import structlog

from worker_core._runtime.places import ArrivalOrder, PlacePolicy, Places
from worker_core.engine import Operation, Phase
from worker_core.errors import EngineError, FailureClass
from worker_core.model_name import canonical_model_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.abc import TaskGroup

    from worker_core.engine import Engine, Host

__all__ = ["Admission", "AdmissionTimeout", "Admitted", "Entry"]

_log = structlog.get_logger("worker_core.admission")

_FRESH_FOR = timedelta(seconds=30).total_seconds()
"""How long a model that has just answered counts as loaded without asking the host."""


_ASK_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 2.0


class AdmissionTimeout(EngineError):
    """The model and a place were not to be had in time; asking again at once would not help."""


@attrs.frozen
class Admitted:
    """A place on a host that has the model; how long its load was waited for, in seconds."""

    host: Host
    load_seconds: float | None


@attrs.frozen
class Entry:
    """Who asks to be admitted, and for what."""

    model: str
    operation: Operation
    express: bool
    on_phase: Callable[[Phase], None]
    stays_loaded: bool = True
    """Whether the host keeps the model after the call."""
    share: float = 1.0
    """How much of the places those who give way may hold while others wait; 1 for others."""


class _Load:
    """One load in flight: everyone who needs the model waits for the same one."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: EngineError | None = None


class _HostState:
    """What admission knows of a host."""

    def __init__(self, host: Host, policy: PlacePolicy) -> None:
        self.host = host
        self._policy = policy
        self._places = Places(host.limits.max_concurrent, policy)
        self._turns: dict[str, Places] = {}
        self.in_use = 0
        self.one_load = anyio.Lock()
        self.loads: dict[tuple[str, Operation], _Load] = {}
        self.loaded_until: dict[tuple[str, Operation], float] = {}

    def places_for(self, entry: Entry) -> list[Places]:
        """Return what a call needs a place of, in the order in which it takes them."""
        if entry.operation is not Operation.EMBED:
            return [self._places]
        # Ollama computes vectors of one model one after the other, and versions of it have mixed
        # up those of calls at the same time. The turn comes first: who waits for it must not
        # hold a place that others could use.
        model = canonical_model_name(entry.model)
        turn = self._turns.setdefault(model, Places(1, self._policy))
        return [turn, self._places]


class Admission:
    """Admits calls to the hosts of one engine. `loads` is the worker's task group for loads."""

    def __init__(
        self,
        engine: Engine,
        loads: TaskGroup,
        *,
        max_wait: timedelta,
        engine_patience: timedelta = timedelta(),
        policy: PlacePolicy | None = None,
    ) -> None:
        order = policy or ArrivalOrder()
        self._hosts = [_HostState(host, order) for host in engine.hosts]
        self._loads = loads
        self.max_wait = max_wait
        """How long a job may wait for its model and a place."""
        self._engine_patience = engine_patience.total_seconds()

    @property
    def max_retries(self) -> int:
        """How often a call that failed before its first token is made again."""
        return max(state.host.limits.max_retries for state in self._hosts)

    @asynccontextmanager
    async def admit(self, entry: Entry) -> AsyncIterator[Admitted]:
        """Wait until the model is loaded and a place is free; hold the place for the body.

        Raises `EngineError`: the load's own failure, `UNREACHABLE` when the host was away for
        longer than `engine_patience`, or `BUSY` after `max_wait`.
        """
        state = min(self._hosts, key=lambda candidate: candidate.in_use)
        state.in_use += 1
        try:
            with ExitStack() as held:
                try:
                    with anyio.fail_after(self.max_wait.total_seconds()):
                        load_seconds = await self._outwait(state, entry)
                        entry.on_phase(Phase.WAITING)
                        for places in state.places_for(entry):
                            ticket = await places.acquire(
                                entry.model, express=entry.express, share=entry.share
                            )
                            held.callback(places.release, ticket)
                except TimeoutError:
                    raise AdmissionTimeout(
                        FailureClass.BUSY,
                        f"model {entry.model!r} was not to be had on {state.host.name} within "
                        f"{self.max_wait.total_seconds():g} s (worker.max_wait)",
                    ) from None
                yield Admitted(state.host, load_seconds)
        finally:
            state.in_use -= 1

    def succeeded(self, host: Host, entry: Entry) -> None:
        """Note that a call was answered: the model is loaded for a while."""
        if not entry.stays_loaded:
            self.failed(host, entry)
            return
        self._state_of(host).loaded_until[_key(entry)] = anyio.current_time() + _FRESH_FOR

    def failed(self, host: Host, entry: Entry) -> None:
        """Note that a call failed: whether the model is loaded must be asked again."""
        self._state_of(host).loaded_until.pop(_key(entry), None)

    def _state_of(self, host: Host) -> _HostState:
        return next(state for state in self._hosts if state.host is host)

    async def _outwait(self, state: _HostState, entry: Entry) -> float | None:
        """See that the model is loaded, also where the host is away for a while, as in a restart."""
        give_up_at: float | None = None
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._ensure_loaded(state, entry)
            except EngineError as error:
                if error.failure is not FailureClass.UNREACHABLE:
                    raise
                now = anyio.current_time()
                give_up_at = give_up_at or now + self._engine_patience
                if now + pause > give_up_at:
                    raise AdmissionTimeout(error.failure, error.message) from error
            entry.on_phase(Phase.WAITING)
            await anyio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  # jitter, no secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _ensure_loaded(self, state: _HostState, entry: Entry) -> float | None:
        """Load the model unless it is; return how long a load was waited for, in seconds."""
        key = _key(entry)
        if state.loaded_until.get(key, 0.0) > anyio.current_time():
            return None
        load = state.loads.get(key)
        if load is None:
            if canonical_model_name(entry.model) in await _loaded_models(state.host):
                state.loaded_until[key] = anyio.current_time() + _FRESH_FOR
                return None
            # Somebody else may have begun it while the host was asked, or even ended it.
            if state.loaded_until.get(key, 0.0) > anyio.current_time():
                return None
            load = state.loads.get(key)
        if load is None:
            load = state.loads[key] = _Load()
            self._loads.start_soon(self._load, state, entry, load)
        entry.on_phase(Phase.LOADING)
        began = anyio.current_time()
        await load.done.wait()
        if load.error is not None:
            # Each waiter raises an error of its own: one shared would gather all their traces.
            raise load.error.copy() from load.error
        return anyio.current_time() - began

    async def _load(self, state: _HostState, entry: Entry, load: _Load) -> None:
        key = _key(entry)
        limit = state.host.limits.load_timeout
        load.error = EngineError(FailureClass.UNREACHABLE, "the worker is stopping")
        try:
            async with state.one_load:
                began = anyio.current_time()
                with anyio.fail_after(limit.total_seconds()):
                    await state.host.load(entry.model, entry.operation)
            load.error = None
            # To make room the host may have thrown out any other model.
            state.loaded_until.clear()
            state.loaded_until[key] = anyio.current_time() + _FRESH_FOR
            _log.info(
                "model loaded",
                model=entry.model,
                host=state.host.name,
                seconds=round(anyio.current_time() - began, 3),
            )
        except TimeoutError:
            load.error = EngineError(
                FailureClass.TIMEOUT,
                f"model {entry.model!r} did not load on {state.host.name} within "
                f"{limit.total_seconds():g} s",
            )
        except EngineError as error:
            load.error = error
        except Exception as error:  # noqa: BLE001  # a bug in an engine plugin must not end the worker
            _log.exception("an engine's load raised what it must not", host=state.host.name)
            load.error = EngineError(FailureClass.CRASHED, f"loading raised {error!r}")
        finally:
            # Also when the worker ends: nobody may wait for a load that is gone.
            if load.error is not None:
                _log.warning("model not loaded", model=entry.model, reason=str(load.error))
            del state.loads[key]
            load.done.set()


async def _loaded_models(host: Host) -> frozenset[str]:
    try:
        with anyio.fail_after(_ASK_SECONDS):
            return await host.loaded_models()
    except TimeoutError:
        raise EngineError(
            FailureClass.UNREACHABLE,
            f"{host.name} did not tell within {_ASK_SECONDS:g} s which models it has loaded",
        ) from None


def _key(entry: Entry) -> tuple[str, Operation]:
    return canonical_model_name(entry.model), entry.operation

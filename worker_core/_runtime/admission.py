"""Admission: the wait for a model and a place on a host, and the leave of its circuits.

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

from worker_core._runtime.circuits import Blamed, HostCircuits, Outlook, blamed, circuit_name
from worker_core._runtime.places import ArrivalOrder, PlacePolicy, Places
from worker_core.engine import Operation, Phase
from worker_core.errors import CircuitOpen, EngineError, FailureClass
from worker_core.model_name import canonical_model_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from anyio.abc import TaskGroup

    from worker_core._runtime.circuits import TellChange
    from worker_core.circuit import CircuitStanding
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
    loads_itself: bool = False
    """Whether the call is made without the model loaded before: it wants it loaded otherwise."""
    on_circuit: TellChange | None = None
    """Is told of a circuit that comes to another state by what is asked here."""

    @property
    def circuit(self) -> str:
        """The name of the model's circuit."""
        return circuit_name(self.operation, self.model)


class _Load:
    """One load in flight: everyone who needs the model waits for the same one."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: EngineError | None = None


class _HostState:
    """What admission knows of a host."""

    def __init__(self, host: Host, policy: PlacePolicy, circuits: HostCircuits) -> None:
        self.host = host
        self.circuits = circuits
        self._policy = policy
        self._places = Places(host.limits.max_concurrent, policy)
        self._turns: dict[str, Places] = {}
        self.in_use = 0
        self.one_load = anyio.Lock()
        self.loads: dict[tuple[str, Operation], _Load] = {}
        self.loaded_until: dict[tuple[str, Operation], float] = {}

    def left(self) -> None:
        """Note that somebody who asked for something has gone."""
        self.in_use -= 1

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
        circuits: bool = True,
    ) -> None:
        order = policy or ArrivalOrder()

        def state_of(host: Host) -> _HostState:
            limits = host.limits.circuit if circuits else None
            return _HostState(host, order, HostCircuits(host.name, limits, stirred=self._stir))

        self._stirred = anyio.Event()
        self._hosts = [state_of(host) for host in engine.hosts]
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

        How the body ends counts on the circuits: it must be the call.

        Raises `EngineError`: the load's own failure, `CircuitOpen` where no host may be asked,
        `UNREACHABLE` when the host was away for longer than `engine_patience`, or `BUSY` after
        `max_wait`.
        """
        with ExitStack() as held:
            try:
                with anyio.fail_after(self.max_wait.total_seconds()):
                    admitted = await self._enter(entry, held)
            except TimeoutError:
                raise AdmissionTimeout(
                    FailureClass.BUSY,
                    f"model {entry.model!r} was not to be had on {self._host_names} within "
                    f"{self.max_wait.total_seconds():g} s (worker.max_wait)",
                ) from None
            yield admitted

    async def _enter(self, entry: Entry, held: ExitStack) -> Admitted:
        """Get a host, its model and a place, and leave in `held` what gives them back."""
        while True:
            state = await self._choose(entry)
            with ExitStack() as trial:
                state.in_use += 1
                trial.callback(state.left)
                try:
                    load_seconds = await self._outwait(state, entry)
                except CircuitOpen:
                    continue  # it has opened meanwhile: another host may be asked, or nobody
                entry.on_phase(Phase.WAITING)
                for places in state.places_for(entry):
                    ticket = await places.acquire(
                        entry.model, express=entry.express, share=entry.share
                    )
                    trial.callback(places.release, ticket)
                # Only now: while it waited, others may have found out that nobody answers.
                if state.circuits.outlook(entry.circuit) is Outlook.PASSES:
                    trial.enter_context(state.circuits.call(entry.circuit, entry.on_circuit))
                    held.push(trial.pop_all())
                    return Admitted(state.host, load_seconds)

    async def _choose(self, entry: Entry) -> _HostState:
        """Return the host to ask, or raise `CircuitOpen` where every one has a circuit against it."""
        while True:
            looks = [(state.circuits.outlook(entry.circuit), state) for state in self._hosts]
            passing = [state for look, state in looks if look is Outlook.PASSES]
            if passing:
                return min(passing, key=lambda candidate: candidate.in_use)
            if not any(look is Outlook.WAITS for look, _ in looks):
                refusals = [state.circuits.refusal(entry.circuit) for state in self._hosts]
                raise min(refusals, key=lambda refusal: refusal.retry_after)
            entry.on_phase(Phase.WAITING)
            await self._stirred.wait()

    def _stir(self) -> None:
        """Let those look again who wait for the probes of a circuit."""
        self._stirred.set()
        self._stirred = anyio.Event()

    @property
    def _host_names(self) -> str:
        return " or ".join(state.host.name for state in self._hosts)

    def may_run(self, model: str, operation: Operation) -> bool:
        """Tell whether some host would let a call through now."""
        name = circuit_name(operation, model)
        return any(state.circuits.outlook(name) is Outlook.PASSES for state in self._hosts)

    @property
    def closings(self) -> int:
        """How often circuits have closed so far."""
        return sum(state.circuits.closings for state in self._hosts)

    def circuits(self) -> list[CircuitStanding]:
        """Return how the circuits of all hosts stand."""
        return [one for state in self._hosts for one in state.circuits.standings()]

    def reset_circuits(
        self, circuit: str | None = None, *, host: str | None = None
    ) -> list[CircuitStanding]:
        """Close circuits, by default all of them, and return how these stand."""
        closed = {
            (state.host.name, name)
            for state in self._hosts
            if host in {None, state.host.name}
            for name in state.circuits.reset(circuit)
        }
        return [one for one in self.circuits() if (one.host, one.circuit) in closed]

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
                state.circuits.check(entry.circuit)
                now = anyio.current_time()
                give_up_at = give_up_at or now + self._engine_patience
                if now + pause > give_up_at:
                    raise AdmissionTimeout(error.failure, error.message) from error
            entry.on_phase(Phase.WAITING)
            await anyio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  # jitter, no secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _ensure_loaded(self, state: _HostState, entry: Entry) -> float | None:
        """Load the model unless it is; return how long a load was waited for, in seconds."""
        if entry.loads_itself:
            return None
        key = _key(entry)
        if state.loaded_until.get(key, 0.0) > anyio.current_time():
            return None
        load = state.loads.get(key)
        if load is None:
            with state.circuits.look(entry.on_circuit):
                listed = await _loaded_models(state.host)
            if canonical_model_name(entry.model) in listed:
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
            if blamed(load.error.failure) is Blamed.MODEL:
                # No waiter's job is at fault: where that has opened the circuit, none spends an
                # attempt.
                state.circuits.check(entry.circuit)
            raise load.error.copy() from load.error
        return anyio.current_time() - began

    async def _load(self, state: _HostState, entry: Entry, load: _Load) -> None:
        key = _key(entry)
        load.error = EngineError(FailureClass.UNREACHABLE, "the worker is stopping")
        try:
            async with state.one_load:
                began = anyio.current_time()
                # Here, so that a load that fails counts once, however many wait for it.
                with state.circuits.load(entry.circuit, entry.on_circuit):
                    await _load_in_time(state.host, entry)
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
        except EngineError as error:
            load.error = error
        finally:
            # Also when the worker ends: nobody may wait for a load that is gone.
            if load.error is not None:
                _log.warning("model not loaded", model=entry.model, reason=str(load.error))
            del state.loads[key]
            load.done.set()


async def _load_in_time(host: Host, entry: Entry) -> None:
    """Load a model within the host's own limit; raises `EngineError` whatever goes wrong."""
    seconds = host.limits.load_timeout.total_seconds()
    try:
        with anyio.fail_after(seconds):
            await host.load(entry.model, entry.operation)
    except TimeoutError:
        raise EngineError(
            FailureClass.TIMEOUT,
            f"model {entry.model!r} did not load on {host.name} within {seconds:g} s",
        ) from None
    except EngineError:
        raise
    except Exception as error:  # a bug in an engine plugin must not end the worker
        _log.exception("an engine's load raised what it must not", host=host.name)
        raise EngineError(FailureClass.CRASHED, f"loading raised {error!r}") from error


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

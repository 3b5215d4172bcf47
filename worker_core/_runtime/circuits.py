"""The circuits of a host: one for each operation and model, such as `chat:llama3`, and one for the
host itself.

A host is asked in three ways, each of which needs leave: a look at what it has loaded, a load, and
a call. What fails speaks against the host or against the model, never against both.
"""

from __future__ import annotations

import enum
import random
from collections import OrderedDict
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import anyio
import attrs
import structlog

from worker_core._runtime.circuit import CallEnd, Circuit
from worker_core.circuit import CircuitChange, CircuitStanding, CircuitState
from worker_core.engine import Operation
from worker_core.errors import CircuitOpen, EngineError, FailureClass
from worker_core.model_name import canonical_model_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker_core._runtime.circuit import Permit
    from worker_core.circuit import CircuitLimits

__all__ = [
    "HOST",
    "Blamed",
    "HostCircuits",
    "Outlook",
    "TellChange",
    "blamed",
    "circuit_called",
    "circuit_name",
]

_log = structlog.get_logger("worker_core.circuits")

HOST = "host"
"""The circuit of a host itself."""

_MOST_KEPT = 100
_IDLE_SECONDS = 3600.0
"""The names come from jobs: circuits that nobody asked for so long, and those beyond so many, are
forgotten unless they are open."""
_PROBING_SECONDS = 1.0
"""When to come again while probes are out: nobody knows how long they take."""

TellChange: TypeAlias = "Callable[[CircuitChange], None]"


class Blamed(enum.Enum):
    """Whom a failure speaks against."""

    HOST = "host"
    MODEL = "model"
    NOBODY = "nobody"


def blamed(failure: FailureClass) -> Blamed:
    """Say whom a failure speaks against."""
    match failure:
        case FailureClass.UNREACHABLE:
            return Blamed.HOST
        case (
            FailureClass.TIMEOUT
            | FailureClass.OUT_OF_MEMORY
            | FailureClass.CRASHED
            | FailureClass.INCOMPLETE
        ):
            return Blamed.MODEL
        case (
            FailureClass.BAD_INPUT
            | FailureClass.MODEL_MISSING
            | FailureClass.UNSUPPORTED
            | FailureClass.UNAUTHORIZED
            | FailureClass.BUSY
            | FailureClass.CIRCUIT_OPEN
        ):
            return Blamed.NOBODY


def circuit_name(operation: Operation, model: str) -> str:
    """Return the name of a model's circuit, the same for every spelling of the model."""
    return f"{operation.value}:{canonical_model_name(model).removesuffix(':latest')}"


def circuit_called(name: str) -> str:
    """Return the name of the circuit that somebody means, however the model is spelt."""
    operation, colon, model = name.partition(":")
    known = colon and model and operation in {one.value for one in Operation}
    return circuit_name(Operation(operation), model) if known else name


class Outlook(enum.Enum):
    """What becomes of a call that is made now."""

    PASSES = "passes"
    WAITS = "waits"
    """For the end of the probes, as the settings say."""
    FAILS = "fails"


@attrs.define(eq=False)
class _Kept:
    """A circuit, and what is known of it beside how calls ended."""

    circuit: Circuit
    told: CircuitState = CircuitState.CLOSED
    """The state that was logged last."""
    used_at: float = 0.0
    out: int = 0
    """How many permits have not been given back."""
    judged: bool = False
    """Whether anything has been said for or against it."""
    last_failure: str = ""


class HostCircuits:
    """The circuits of one host; without `limits` every call passes.

    `stirred` is called whenever somebody who waits may be let through.
    """

    def __init__(
        self, host: str, limits: CircuitLimits | None, *, stirred: Callable[[], None]
    ) -> None:
        self._host = host
        self._limits = limits
        self._stirred = stirred
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self.closings = 0
        """How often a circuit has closed."""

    def outlook(self, name: str) -> Outlook:
        """Tell what becomes of a call that the circuit `name` is asked about, and the host's."""
        now = anyio.current_time()
        refusing = [kept for _, kept in self._found(name) if not kept.circuit.allows(now)]
        if not refusing:
            return Outlook.PASSES
        assert self._limits is not None
        waits = self._limits.when_half_open == "wait"
        if waits and all(kept.circuit.state(now) is CircuitState.HALF_OPEN for kept in refusing):
            return Outlook.WAITS
        return Outlook.FAILS

    def check(self, name: str) -> None:
        """Raise `CircuitOpen` unless a call would pass."""
        if self.outlook(name) is not Outlook.PASSES:
            raise self.refusal(name)

    def refusal(self, name: str) -> CircuitOpen:
        """Return the error of a call that is not let through."""
        now = anyio.current_time()
        seconds, circuit, words = 0.0, HOST, ""
        for refusing, kept in self._found(name):
            if kept.circuit.allows(now):
                continue
            left = kept.circuit.seconds_open(now) or _PROBING_SECONDS
            if left >= seconds:
                said = f"; the last failure was: {kept.last_failure}" if kept.last_failure else ""
                state = kept.circuit.state(now).value.replace("_", " ")
                seconds, circuit = left, refusing
                words = f"circuit {refusing!r} of {self._host} is {state}{said}"
        return CircuitOpen(words, circuit=circuit, retry_after=timedelta(seconds=seconds))

    @contextmanager
    def look(self, tell: TellChange | None = None) -> Iterator[None]:
        """Ask the host something in the body; raises `CircuitOpen`."""
        with self._permits([HOST], tell):
            yield

    @contextmanager
    def load(self, name: str, tell: TellChange | None = None) -> Iterator[None]:
        """Load a model in the body; that it loads does not say that it answers."""
        with self._permits([HOST, name], tell, undecided=name):
            yield

    @contextmanager
    def call(self, name: str, tell: TellChange | None = None) -> Iterator[None]:
        """Make a call in the body."""
        with self._permits([HOST, name], tell):
            yield

    def standings(self) -> list[CircuitStanding]:
        """Return how every circuit stands, the host's first."""
        now = anyio.current_time()
        self._forget_idle(now)
        found = []
        for name, kept in self._kept.items():
            calls, failures = kept.circuit.totals(now)
            standing = CircuitStanding(
                host=self._host,
                circuit=name,
                state=kept.circuit.state(now),
                calls=calls,
                failures=failures,
                open_seconds=kept.circuit.seconds_open(now),
            )
            found.append(standing)
        return sorted(found, key=lambda one: (one.circuit != HOST, one.circuit))

    def reset(self, name: str | None = None) -> list[str]:
        """Close the circuit of this name, by default every one, and return the names."""
        meant = None if name is None else circuit_called(name)
        names = [one for one in self._kept if meant in {None, one}]
        for one in names:
            kept = self._kept[one]
            kept.circuit.reset()
            kept.last_failure = ""
            self._note_state(one, kept, None)
        self._stirred()
        return names

    @contextmanager
    def _permits(
        self, names: list[str], tell: TellChange | None, *, undecided: str | None = None
    ) -> Iterator[None]:
        """Hold a permit of each circuit; a success says nothing of the circuit `undecided`."""
        if self._limits is None:
            yield
            return
        self.check(names[-1])
        held = [(name, self._take(name)) for name in names]
        failure: EngineError | None = None
        answered = False
        try:
            yield
            answered = True
        except EngineError as error:
            failure = error
            raise
        finally:
            for name, permit in held:
                if answered and name != undecided:
                    self._end(name, permit, CallEnd.SUCCEEDED, tell)
                elif failure is not None and _speaks_against(failure, name):
                    self._kept[name].last_failure = str(failure)
                    self._end(name, permit, CallEnd.FAILED, tell)
                else:
                    self._end(name, permit, CallEnd.SAYS_NOTHING, tell)
            self._stirred()

    def _found(self, name: str) -> list[tuple[str, _Kept]]:
        """Return those circuits of the host and of `name` that there are."""
        names = (HOST,) if name == HOST else (HOST, name)
        return [(one, self._kept[one]) for one in names if one in self._kept]

    def _take(self, name: str) -> Permit:
        now = anyio.current_time()
        kept = self._kept.get(name)
        if kept is None:
            assert self._limits is not None
            # Jitter, no secret.
            kept = self._kept[name] = _Kept(Circuit(self._limits, random.random), used_at=now)
            self._forget_idle(now)
        self._kept.move_to_end(name)
        kept.used_at = now
        kept.out += 1
        permit = kept.circuit.take(now)
        self._note_state(name, kept, None)
        return permit

    def _end(self, name: str, permit: Permit, how: CallEnd, tell: TellChange | None) -> None:
        kept = self._kept[name]
        kept.out -= 1
        kept.judged = kept.judged or how is not CallEnd.SAYS_NOTHING
        permit.end(how, anyio.current_time())
        self._note_state(name, kept, tell)
        if not kept.judged and not kept.out:
            # Of a model that is not there, say: its name came from a job.
            del self._kept[name]

    def _note_state(self, name: str, kept: _Kept, tell: TellChange | None) -> None:
        """Say that a circuit has changed, if it has."""
        now = anyio.current_time()
        state = kept.circuit.state(now)
        if state is kept.told:
            return
        kept.told = state
        calls, failures = kept.circuit.totals(now)
        said: dict[str, object] = {"host": self._host, "circuit": name}
        match state:
            case CircuitState.OPEN:
                _log.warning(
                    "a circuit opened: calls fail at once",
                    **said,
                    seconds=round(kept.circuit.seconds_open(now), 1),
                    failures=failures,
                    calls=calls,
                    last_failure=kept.last_failure,
                )
            case CircuitState.HALF_OPEN:
                _log.info("a circuit is half open: some calls are let through", **said)
            case CircuitState.CLOSED:
                self.closings += 1
                _log.info("a circuit closed", **said)
        if tell is not None:
            tell(CircuitChange(self._host, name, state))

    def _forget_idle(self, now: float) -> None:
        """Forget circuits that say nothing any more; those used last are at the end."""
        over = len(self._kept) - _MOST_KEPT
        for name, kept in list(self._kept.items()):
            idle = now - kept.used_at >= _IDLE_SECONDS
            if not idle and over <= 0:
                break
            is_open = kept.circuit.state(now) is CircuitState.OPEN
            if not (is_open or kept.out or kept.used_at >= now or name == HOST):
                del self._kept[name]
                over -= 1


def _speaks_against(failure: EngineError, name: str) -> bool:
    match blamed(failure.failure):
        case Blamed.HOST:
            return name == HOST
        case Blamed.MODEL:
            return name != HOST
        case Blamed.NOBODY:
            return False

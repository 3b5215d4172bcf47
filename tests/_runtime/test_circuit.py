"""A circuit, against a plain model of what it promises."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from worker_core._runtime.circuit import CallEnd, Circuit
from worker_core.circuit import CircuitLimits, CircuitState

if TYPE_CHECKING:
    from worker_core._runtime.circuit import Permit

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def circuit_with(*, random: float = 0.0, **limits: object) -> Circuit:
    return Circuit(CircuitLimits(**limits), lambda: random)  # type: ignore[arg-type]


def call(circuit: Circuit, how: CallEnd, now: float) -> None:
    circuit.take(now).end(how, now)


def fail(circuit: Circuit, now: float, times: int) -> None:
    for _ in range(times):
        call(circuit, CallEnd.FAILED, now)


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    circuit = circuit_with(consecutive=3)
    fail(circuit, 0, 2)
    call(circuit, CallEnd.SUCCEEDED, 0)
    fail(circuit, 0, 2)
    call(circuit, CallEnd.SAYS_NOTHING, 0)
    assert circuit.state(0) is CLOSED
    fail(circuit, 0, 1)
    assert circuit.state(0) is OPEN
    assert not circuit.allows(0)


def test_it_opens_when_too_large_a_share_failed_once_there_were_enough_calls() -> None:
    circuit = circuit_with(consecutive=100, min_calls=10, failure_share=0.5)
    for _ in range(5):
        call(circuit, CallEnd.SUCCEEDED, 0)
    fail(circuit, 1, 4)
    assert circuit.state(1) is CLOSED
    fail(circuit, 1, 1)
    assert circuit.state(1) is OPEN


def test_what_is_older_than_the_window_does_not_count() -> None:
    circuit = circuit_with(consecutive=100, min_calls=4, window=seconds(60))
    fail(circuit, 0, 3)
    fail(circuit, 60, 3)
    assert circuit.state(60) is CLOSED
    assert circuit.totals(60) == (3, 3)


def test_it_is_open_twice_as_long_each_time_up_to_a_limit() -> None:
    circuit = circuit_with(consecutive=1, open_for=seconds(10), max_open=seconds(35))
    now, lasted = 0.0, []
    for _ in range(4):
        fail(circuit, now, 1)
        lasted.append(circuit.seconds_open(now))
        now += lasted[-1]
        assert circuit.state(now) is HALF_OPEN
    assert lasted == [10, 20, 35, 35]


def test_an_outage_of_weeks_overflows_nothing() -> None:
    circuit = circuit_with(consecutive=1)
    now = 0.0
    for _ in range(3000):
        fail(circuit, now, 1)
        now += circuit.seconds_open(now)
    assert circuit.state(now) is HALF_OPEN


def test_one_that_was_closed_for_a_whole_window_begins_with_the_short_time_again() -> None:
    circuit = circuit_with(consecutive=1, window=seconds(60))
    fail(circuit, 0, 1)
    call(circuit, CallEnd.SUCCEEDED, 10)
    fail(circuit, 69, 1)
    assert circuit.seconds_open(69) == 20  # it had not recovered
    call(circuit, CallEnd.SUCCEEDED, 89)
    fail(circuit, 149, 1)
    assert circuit.seconds_open(149) == 10


def test_up_to_a_fifth_of_the_time_is_left_to_chance() -> None:
    circuit = circuit_with(consecutive=1, random=0.999)
    fail(circuit, 0, 1)
    assert 8 <= circuit.seconds_open(0) < 8.1


def test_a_probe_that_says_nothing_frees_its_place() -> None:
    circuit = circuit_with(consecutive=1)
    fail(circuit, 0, 1)
    probe = circuit.take(10)
    assert not circuit.allows(10)
    probe.end(CallEnd.SAYS_NOTHING, 11)
    assert circuit.state(11) is HALF_OPEN
    assert circuit.allows(11)


def test_a_call_from_before_it_opened_decides_nothing_when_it_is_half_open() -> None:
    circuit = circuit_with(consecutive=1)
    late, later = circuit.take(0), circuit.take(0)
    fail(circuit, 0, 1)
    late.end(CallEnd.SUCCEEDED, 10)
    assert circuit.state(10) is HALF_OPEN
    later.end(CallEnd.FAILED, 10)
    assert circuit.state(10) is HALF_OPEN


def test_reset_closes_it_and_forgets() -> None:
    circuit = circuit_with(consecutive=1)
    fail(circuit, 0, 1)
    circuit.reset()
    assert circuit.state(0) is CLOSED
    assert circuit.totals(0) == (0, 0)
    fail(circuit, 1, 1)
    assert circuit.seconds_open(1) == 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_share": 0.0},
        {"failure_share": 1.1},
        {"min_calls": 0},
        {"consecutive": 0},
        {"probes": 0},
        {"open_for": timedelta()},
        {"window": timedelta()},
    ],
)
def test_limits_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CircuitLimits(**wrong)  # type: ignore[arg-type]


@attrs.frozen(eq=False)
class Out:
    """A permit that was not given back, and the period in which it was taken."""

    permit: Permit
    period: int
    probe: bool


class CircuitMachine(RuleBasedStateMachine):
    """A circuit, and what it promises written down plainly: every call is remembered for ever."""

    out = Bundle("out")

    @initialize(
        consecutive=st.integers(1, 6),
        min_calls=st.integers(1, 8),
        share=st.sampled_from([0.1, 0.5, 1.0]),
        probes=st.integers(1, 3),
        window=st.sampled_from([10, 60]),
        max_open=st.sampled_from([5, 40, 300]),
    )
    def begin(
        self,
        *,
        consecutive: int,
        min_calls: int,
        share: float,
        probes: int,
        window: int,
        max_open: int,
    ) -> None:
        self.limits = CircuitLimits(
            consecutive=consecutive,
            min_calls=min_calls,
            failure_share=share,
            probes=probes,
            window=seconds(window),
            max_open=seconds(max_open),
        )
        self.window = window
        self.chance = 0.0
        self.circuit = Circuit(self.limits, lambda: self.chance)
        self.now = 1000.0
        self.state = CLOSED
        self.period = 0
        self.until = -math.inf
        self.openings = 0
        self.closed_at = -math.inf
        self.ends: list[tuple[float, bool]] = []
        """When each call of this period that was closed ended, and whether it failed."""
        self.probing = self.probed = 0

    def enter(self, state: CircuitState) -> None:
        self.state = state
        self.period += 1
        self.probing = self.probed = 0
        if state is CLOSED:
            self.ends = []

    def advance(self) -> None:
        if self.state is OPEN and self.now >= self.until:
            self.enter(HALF_OPEN)

    def open_anew(self) -> None:
        recovered = self.state is CLOSED and self.now - self.closed_at >= self.window
        self.openings = 1 if recovered else self.openings + 1
        longest = min(10 * 2 ** (self.openings - 1), self.limits.max_open.total_seconds())
        self.until = self.now + longest * (1 - 0.2 * self.chance)
        self.enter(OPEN)

    def recent(self) -> list[bool]:
        part = self.window / 10
        here = math.floor(self.now / part)
        return [failed for at, failed in self.ends if math.floor(at / part) > here - 10]

    def fails_too_often(self) -> bool:
        recent = self.recent()
        last = [failed for _, failed in self.ends][-self.limits.consecutive :]
        in_a_row = len(last) == self.limits.consecutive and all(last)
        share = sum(recent) / len(recent)
        enough = len(recent) >= self.limits.min_calls
        return in_a_row or (enough and share >= self.limits.failure_share)

    @rule(by=st.floats(0, 50), chance=st.floats(0, 0.99))
    def wait_a_while(self, by: float, chance: float) -> None:
        self.wait(by, chance)

    def wait(self, by: float, chance: float) -> None:
        self.now += by
        self.chance = chance
        self.advance()

    @rule(target=out)
    def take_one(self) -> Out | None:
        return self.take()

    def take(self) -> Out | None:
        if not self.circuit.allows(self.now):
            return None
        half_open = self.state is HALF_OPEN
        self.probing += half_open
        return Out(self.circuit.take(self.now), self.period, half_open)

    @rule(one=consumes(out), how=st.sampled_from(CallEnd))
    def give_back(self, one: Out | None, how: CallEnd) -> None:
        self.end(one, how)

    def end(self, one: Out | None, how: CallEnd) -> None:
        if one is None:
            return
        one.permit.end(how, self.now)
        if one.period != self.period:
            return
        self.probing -= one.probe
        if how is CallEnd.SAYS_NOTHING:
            return
        if one.probe:
            self.probed += how is CallEnd.SUCCEEDED
            if how is CallEnd.FAILED:
                self.open_anew()
            elif self.probed == self.limits.probes:
                self.enter(CLOSED)
                self.closed_at = self.now
            return
        self.ends.append((self.now, how is CallEnd.FAILED))
        if how is CallEnd.FAILED and self.fails_too_often():
            self.open_anew()

    @rule(ends=st.lists(st.tuples(st.sampled_from(CallEnd), st.integers(0, 7)), max_size=8))
    def calls(self, ends: list[tuple[CallEnd, int]]) -> None:
        for how, after in ends:
            self.wait(after, self.chance)
            self.end(self.take(), how)

    @rule()
    def reset(self) -> None:
        self.circuit.reset()
        self.openings = 0
        self.closed_at = -math.inf
        self.enter(CLOSED)

    @invariant()
    def they_agree(self) -> None:
        assert self.circuit.state(self.now) is self.state
        allowed = {
            CLOSED: True,
            OPEN: False,
            HALF_OPEN: self.probing + self.probed < self.limits.probes,
        }
        assert self.circuit.allows(self.now) is allowed[self.state]
        if self.state is CLOSED:
            recent = self.recent()
            assert self.circuit.totals(self.now) == (len(recent), sum(recent))
        left = self.until - self.now if self.state is OPEN else 0
        assert math.isclose(self.circuit.seconds_open(self.now), left, abs_tol=1e-9)


CircuitMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestCircuitMachine = CircuitMachine.TestCase

"""A job that failed for good has one dead letter, whatever dies, and no other job has any."""

from __future__ import annotations

import functools
import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests._runtime.support import run_virtual
from tests._runtime.test_settlement import BAD, FINAL, GOOD, JOB, TOKEN, Fate, ModelQueue
from worker_core._bullmq.calls import now_ms
from worker_core._bullmq.outbox import OutboxEntry, Standing
from worker_core._runtime.backoffs import Backoffs
from worker_core._runtime.context import view_of
from worker_core._runtime.dead_letters import DeadLetters, Decision, decide
from worker_core._runtime.settlement import Settler
from worker_core._runtime.verdict import Cancelled, Verdict
from worker_core.dead_letters import FailedAttempt, read_dead_letter

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker_core._bullmq.job import StoredJob
    from worker_core._runtime.verdict import Settlement

HOUR = timedelta(hours=1)
ENTRY = OutboxEntry(job_id="7", name="n", created_ms=5, token=TOKEN, worker="w", at_ms=100)


class Killed(BaseException):
    """The worker is killed."""


@attrs.define(eq=False)
class ModelServer(ModelQueue):
    """`ModelQueue` with an outbox, whose caller may be killed before or after any of its calls."""

    kept: dict[OutboxEntry, bytes] = attrs.field(factory=dict)
    letters: list[bytes] = attrs.field(factory=list)
    created_ms: int = JOB.timestamp_ms
    kill_at: int | None = None
    kill_after: bool = False

    async def _call(self, name: str, run: Callable[[], object]) -> object:
        dies = len(self.calls) == self.kill_at
        if dies and not self.kill_after:
            raise Killed
        try:
            return await super()._call(name, run)
        finally:
            if dies:
                raise Killed

    async def put(self, entry: OutboxEntry, letter: bytes) -> None:
        await self._call("put", lambda: self.kept.update({entry: letter}))

    def post_drop(self, entry: OutboxEntry) -> None:
        self.kept.pop(entry, None)

    async def drop(self, entry: OutboxEntry) -> None:
        await self._call("drop", lambda: self.kept.pop(entry, None))

    async def entries(self) -> list[OutboxEntry]:
        return await self._call("entries", lambda: list(self.kept))

    async def standing(self, entry: OutboxEntry) -> Standing:
        def run() -> Standing:
            if not self.exists:
                return Standing(lock=self.lock)
            return Standing(
                lock=self.lock,
                created_ms=self.created_ms,
                finished_on_ms=self.finished_on_ms,
                is_failed="failed" in self.written[-1:],
                history=self.history,
            )

        return await self._call("standing", run)

    async def deliver(self, entry: OutboxEntry) -> None:
        def run() -> None:
            if entry in self.kept:
                self.letters.append(self.kept.pop(entry))

        await self._call("deliver", run)


def letters_of(server: ModelServer, worker: str = "w") -> DeadLetters:
    return DeadLetters(server, queue="q", worker=worker, interval=HOUR)  # type: ignore[arg-type]  # stands for the outbox


async def settle(server: ModelServer, verdict: Verdict, job: StoredJob = JOB) -> Settlement:
    """Settle as a worker does whose other tasks run beside it."""
    dead = letters_of(server)
    backoffs = Backoffs({}, functools.partial(view_of, queue="q", job_type="t"))
    settler = Settler(server, lambda: False, backoffs=backoffs, dead_letters=dead)  # type: ignore[arg-type]  # stands for the queue
    async with anyio.create_task_group() as keepers:
        keepers.start_soon(dead.run)
        settlement = await settler.settle(job, TOKEN, verdict)
        keepers.cancel_scope.cancel()
    return settlement


def wait_for_another_millisecond() -> None:
    """No slot fails a job, is given it again and fails it once more in the same one."""
    begun = now_ms()
    while now_ms() == begun:
        time.sleep(0.0001)


async def reconcile(server: ModelServer) -> None:
    """What any other worker does, for two hours."""
    with anyio.move_on_after(2 * HOUR.total_seconds() + 1):
        await letters_of(server, "another").run()


def moves(server: ModelServer) -> list[str]:
    """The calls, without those that only look."""
    return [one for one in server.calls if one not in {"entries", "standing"}]


# --- What an entry means ---


def at(**members: object) -> Standing:
    return Standing(**{"created_ms": 5, **members})  # type: ignore[arg-type]  # its members


REMEMBERED = json.dumps(
    [FailedAttempt(at_ms=100, worker="w", error_class="error", error="x").wire()]
).encode()


def test_an_accepted_finish_is_delivered() -> None:
    assert decide(ENTRY, at(finished_on_ms=100, is_failed=True)) is Decision.DELIVER


def test_a_job_that_was_removed_as_it_failed_has_its_letter() -> None:
    assert decide(ENTRY, Standing()) is Decision.DELIVER
    assert decide(ENTRY, Standing(created_ms=6)) is Decision.DELIVER  # its id is another job's


def test_a_job_that_was_retried_since_then_has_its_letter() -> None:
    assert decide(ENTRY, at(history=REMEMBERED)) is Decision.DELIVER
    assert decide(ENTRY, at(history=REMEMBERED, lock=TOKEN)) is Decision.DELIVER
    assert decide(ENTRY, at(history=REMEMBERED, finished_on_ms=200)) is Decision.DELIVER


def test_as_long_as_the_finish_may_come_nothing_is_decided() -> None:
    assert decide(ENTRY, at(lock=TOKEN)) is Decision.WAIT


def test_a_refused_finish_is_dropped() -> None:
    for standing in (
        at(),
        at(lock="another"),
        at(finished_on_ms=100),
        at(finished_on_ms=90, is_failed=True),
        at(finished_on_ms=200, is_failed=True, history=REMEMBERED.replace(b"100", b"200")),
        at(history=REMEMBERED.replace(b'"w"', b'"v"')),
    ):
        assert decide(ENTRY, standing) is Decision.DROP, standing


@given(
    at_ms=st.integers(1, 3),
    standing=st.builds(
        Standing,
        lock=st.sampled_from([None, TOKEN, "another"]),
        created_ms=st.sampled_from([None, 5, 6]),
        finished_on_ms=st.one_of(st.none(), st.integers(1, 3)),
        is_failed=st.booleans(),
        history=st.sampled_from([b"", b"no json", b"[3]", REMEMBERED]),
    ),
)
def test_an_entry_is_kept_only_while_its_lock_is_and_dropped_only_where_its_job_is(
    at_ms: int, standing: Standing
) -> None:
    entry = attrs.evolve(ENTRY, at_ms=at_ms)
    decision = decide(entry, standing)
    is_there = standing.created_ms == entry.created_ms
    if decision is Decision.WAIT:
        assert is_there
        assert standing.lock == TOKEN
    elif decision is Decision.DROP:
        assert is_there
        assert standing.lock != TOKEN
        assert not (standing.is_failed and standing.finished_on_ms == at_ms)


# --- When nobody dies ---


def test_a_failure_for_good_is_kept_before_it_is_written_and_delivered_behind_it() -> None:
    server = ModelServer()
    run_virtual(settle, server, FINAL)
    assert moves(server) == ["put", "finish", "deliver"]
    assert (len(server.letters), server.kept) == (1, {})


def test_what_does_not_fail_for_good_costs_no_call() -> None:
    for verdict in (GOOD, BAD, Cancelled()):
        server = ModelServer()
        run_virtual(settle, server, verdict)
        assert moves(server) in (["finish"], ["retry"])
        assert server.letters == []


def test_a_refused_failure_has_no_letter() -> None:
    server = ModelServer(lock="another")
    run_virtual(settle, server, FINAL)
    assert (server.letters, server.kept) == ([], {})


def test_the_letter_says_what_became_of_the_job() -> None:
    job = attrs.evolve(
        JOB,
        name="greet",
        data=b'{"model": "llama3", "seed": 123456789012345678901234567890}',
        raw_options=b'{"attempts":3}',
        history=REMEMBERED,
    )
    server = ModelServer()
    run_virtual(settle, server, FINAL, job)
    letter = read_dead_letter(server.letters[0])
    assert letter is not None
    assert (letter.job.id, letter.job.queue, letter.job.name) == ("7", "q", "greet")
    assert letter.job.data == {"model": "llama3", "seed": 123456789012345678901234567890}
    assert letter.job.opts == {"attempts": 3}
    assert (letter.error.error_class, letter.error.message) == ("unrecoverable", "enough")
    assert [one.error for one in letter.attempts] == ["x", "enough"]
    assert letter.failed_at_ms == letter.attempts[-1].at_ms == server.endings[0].at_ms
    assert letter.worker == letter.attempts[-1].worker == "w"


def test_the_model_is_the_one_that_the_data_asks_for() -> None:
    for data, model in (
        (b'{"model": "llama3"}', "llama3"),
        (b'{"model": 3}', None),
        (b"[1]", None),
        (b"no json", None),
    ):
        server = ModelServer()
        run_virtual(settle, server, FINAL, attrs.evolve(JOB, data=data))
        letter = read_dead_letter(server.letters[0])
        assert letter is not None
        assert letter.model == model


@settings(deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=30),
        st.recursive(
            st.one_of(st.integers(), st.floats(), st.text(), st.none()), st.lists, max_leaves=5
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_whatever_a_producer_wrote_the_letter_can_be_read(data: bytes) -> None:
    server = ModelServer()
    run_virtual(settle, server, FINAL, attrs.evolve(JOB, data=data, raw_options=data))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    written = json.loads(server.letters[0], parse_constant=refuse)["job"]
    try:
        expected = json.loads(data.decode(), parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError):
        expected = data.decode("utf-8", "replace")
    assert written["data"] == expected
    assert read_dead_letter(server.letters[0]) is not None


def test_many_letters_are_delivered_side_by_side_and_each_once() -> None:
    server = ModelServer()
    entries = [attrs.evolve(ENTRY, job_id=str(number)) for number in range(250)]

    async def run() -> None:
        dead = letters_of(server)
        async with anyio.create_task_group() as keepers:
            keepers.start_soon(dead.run)
            for entry in entries:
                server.kept[entry] = entry.job_id.encode()
                dead.settled(entry, accepted=True)
            await anyio.sleep(1)
            keepers.cancel_scope.cancel()

    run_virtual(run)
    assert sorted(server.letters) == sorted(entry.job_id.encode() for entry in entries)


def test_a_letter_that_cannot_be_delivered_is_tried_again() -> None:
    server = ModelServer(fates=[Fate.GOOD] * 3 + [Fate.REFUSED, Fate.RUN, Fate.REFUSED])

    async def run() -> None:
        dead = letters_of(server)
        async with anyio.create_task_group() as keepers:
            keepers.start_soon(dead.run)
            await anyio.sleep(1)
            server.kept[ENTRY] = b"{}"
            server.exists = False
            server.fates = [Fate.REFUSED, Fate.UNRUN, Fate.RUN, Fate.REFUSED]
            dead.settled(ENTRY, accepted=True)
            await anyio.sleep(20)
            keepers.cancel_scope.cancel()

    with capture_logs():
        run_virtual(run)
    assert (server.letters, server.kept) == ([b"{}"], {})


def test_a_review_that_was_not_answered_is_made_again_soon() -> None:
    server = ModelServer(fates=[Fate.REFUSED, Fate.AWAY], exists=False, kept={ENTRY: b"{}"})

    async def run() -> None:
        with anyio.move_on_after(10):
            await letters_of(server).run()

    with capture_logs():
        run_virtual(run)
    assert (server.letters, server.kept) == ([b"{}"], {})


def test_a_worker_that_stops_delivers_what_is_due() -> None:
    server = ModelServer()

    async def run() -> None:
        dead = letters_of(server)
        async with anyio.create_task_group() as keepers:
            keepers.start_soon(dead.run)
            await anyio.sleep(1)
            server.kept[ENTRY] = b"{}"
            dead.settled(ENTRY, accepted=True)
            keepers.cancel_scope.cancel()

    run_virtual(run)
    assert server.letters == [b"{}"]


# --- When somebody dies ---


@settings(deadline=None, max_examples=600)
@given(
    verdict=st.sampled_from([GOOD, BAD, FINAL, Cancelled()]),
    fates=st.lists(st.sampled_from(Fate), max_size=6),
    kill_at=st.one_of(st.none(), st.integers(0, 8)),
    kill_after=st.booleans(),
    removes=st.booleans(),
    runs_again=st.sampled_from([None, GOOD, FINAL]),
    retried=st.booleans(),
)
def test_exactly_one_letter_for_each_failure_for_good_and_none_for_anything_else(
    verdict: Verdict,
    fates: list[Fate],
    kill_at: int | None,
    kill_after: bool,
    removes: bool,
    runs_again: Verdict | None,
    retried: bool,
) -> None:
    server = ModelServer(
        fates=fates, kill_at=kill_at, kill_after=kill_after, removes_finished=removes
    )

    async def first() -> None:
        with anyio.fail_after(120):
            await settle(server, verdict)

    with capture_logs():
        try:
            run_virtual(first)
        except* Killed:
            pass
        server.kill_at, server.fates = None, []
        for run_late in server.late:
            run_late()
        server.late = []
        failures = sum(one == "failed" and verdict != Cancelled() for one in server.written)
        job = attrs.evolve(JOB, history=server.history, attempts_started=JOB.attempts_made + 2)
        if server.finished_on_ms is not None and retried and server.exists:
            # `job.retry()`, before anybody has looked at the outbox.
            server.finished_on_ms = None
            job = attrs.evolve(job, attempts_made=3, attempts_started=4)
        if server.finished_on_ms is None and server.exists and runs_again is not None:
            # The lock runs out, and the next worker's slot happens to have the same token.
            server.lock = TOKEN
            server.written.clear()
            wait_for_another_millisecond()
            run_virtual(settle, server, runs_again, job)
            failures += "failed" in server.written
        elif server.lock is not None:
            server.lock = None
        run_virtual(reconcile, server)
    assert len(server.letters) == failures
    assert server.kept == {}

"""Every form in which the scripts answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker_core._bullmq import replies
from worker_core._bullmq.job import StoredJob
from worker_core._bullmq.replies import (
    STILL_OWNED,
    Final,
    FinalState,
    Finished,
    Nothing,
    Refusal,
    Settled,
)

HASH = [b"name", b"greet", b"data", b"{}", b"atm", b"1"]
JOB = StoredJob(id="7", name="greet", data=b"{}", attempts_made=1)


@pytest.mark.parametrize(
    ("reply", "claim"),
    [
        ([HASH, b"7", 0, 0], JOB),
        ([[], b"7", 0, 0], StoredJob(id="7")),
        ([0, 0, 0, 0], Nothing()),
        ([0, 0, 250, 0], Nothing(limited_ms=250)),
        ([0, 0, -2, 0], Nothing()),
        ([0, 0, 0, 1700000000000], Nothing(due_at_ms=1700000000000)),
        ([0, 0, 0, b"1700000000000.5"], Nothing(due_at_ms=1700000000000)),
        ([0, 0, 0, b"1.7e12"], Nothing(due_at_ms=1700000000000)),
        ([0, 0, 0, None], Nothing()),
        (None, Nothing()),
        ([], Nothing()),
        (0, Nothing()),
    ],
)
def test_a_claim_brings_a_job_or_when_to_ask_again(reply: object, claim: object) -> None:
    assert replies.read_claim(reply) == claim


@pytest.mark.parametrize(
    ("reply", "finished"),
    [
        (0, Finished(Nothing())),
        (None, Finished(Nothing())),
        ([HASH, b"7", 0, 0], Finished(JOB)),
        ([0, 0, 40, 0], Finished(Nothing(limited_ms=40))),
        (-1, Refusal.JOB_GONE),
        (-2, Refusal.LOCK_GONE),
        (-3, Refusal.NOT_ACTIVE),
        (-4, Refusal.PENDING_CHILDREN),
        (-6, Refusal.LOCK_STOLEN),
        (-9, Refusal.FAILED_CHILDREN),
    ],
)
def test_a_finish_is_taken_or_refused(reply: object, finished: object) -> None:
    assert replies.read_finish(reply) == finished


@pytest.mark.parametrize("reply", [0, 1, None, b"0", [b"x"]])
def test_a_move_that_was_made_is_no_refusal(reply: object) -> None:
    assert replies.read_move(reply) is None


@pytest.mark.parametrize("refusal", [one for one in Refusal if one.value < 0])
def test_a_move_that_was_not_made_says_why(refusal: Refusal) -> None:
    assert replies.read_move(refusal.value) is refusal


@pytest.mark.parametrize("refusal", Refusal)
def test_a_wait_for_children_that_was_not_begun_says_why(refusal: Refusal) -> None:
    assert replies.read_wait(refusal.value) is refusal
    assert replies.read_wait(0) is None


def test_only_children_leave_the_job_to_its_worker() -> None:
    assert {refusal for refusal in Refusal if not refusal.is_loss} == {
        Refusal.PENDING_CHILDREN,
        Refusal.FAILED_CHILDREN,
        Refusal.NONE_PENDING,
    }


def test_a_code_that_nobody_knows_is_not_taken_for_a_success() -> None:
    with pytest.raises(ValueError, match="-77"):
        replies.read_finish(-77)
    with pytest.raises(ValueError, match="-77"):
        replies.read_move(-77)


@pytest.mark.parametrize(
    ("reply", "owned"), [([HASH, b"7"], JOB), (None, None), ([], None), (0, None)]
)
def test_the_owned_job_is_found_or_not(reply: object, owned: object) -> None:
    assert replies.read_owned(reply) == owned


def test_locks_that_are_lost_are_named() -> None:
    assert replies.read_ids([]) == frozenset()
    assert replies.read_ids([b"1", b"caf\xc3\xa9", b"\xff"]) == {"1", "café", "�"}


@pytest.mark.parametrize(
    ("reply", "due_ms"),
    [
        (None, None),
        ([b"bull:q:marker", b"0", b"0"], 0.0),
        ([b"bull:q:marker", b"1", b"1700000000000"], 1.7e12),
        ([b"bull:q:marker", b"1", b"1.7000000000005e12"], 1.7000000000005e12),
    ],
)
def test_the_marker_says_when_the_next_delayed_job_is_due(
    reply: object, due_ms: float | None
) -> None:
    assert replies.read_marker(reply) == due_ms


@pytest.mark.parametrize(
    ("fields", "settled"),
    [
        ([b"1700", b"2", b"1600"], Settled(finished_on_ms=1700, attempts_made=2)),
        ([None, None, b"1600"], Settled()),
        ([None, b"3", b"1600"], Settled(attempts_made=3)),
        ([None, None, None], Settled(exists=False)),
        ([b"x", b"y", b"z"], Settled()),
        (None, Settled(exists=False)),
        ([], Settled(exists=False)),
    ],
)
def test_what_became_of_a_job_is_read_from_its_fields(fields: object, settled: object) -> None:
    assert replies.read_settled(fields) == settled


def test_a_job_still_owned_is_not_settled() -> None:
    assert STILL_OWNED.owned
    assert not Settled().owned


@pytest.mark.parametrize(
    ("reply", "final"),
    [
        ([1, b'{"a":1}'], Final(FinalState.COMPLETED, b'{"a":1}')),
        ([1, None], Final(FinalState.COMPLETED, b"null")),
        ([1], Final(FinalState.COMPLETED, b"null")),
        ([2, b"why"], Final(FinalState.FAILED, b"why")),
        ([2, None], Final(FinalState.FAILED, b"")),
        ([-1, b"Missing key"], Refusal.JOB_GONE),
        ([0, None], None),
        (0, None),
        (None, None),
    ],
)
def test_the_end_of_a_job_is_read(reply: object, final: object) -> None:
    assert replies.read_finished(reply) == final


scalars = st.none() | st.integers(0) | st.sampled_from([b"7", b"1.5e3"])
any_reply = scalars | st.lists(scalars | st.lists(st.binary(max_size=6), max_size=6), max_size=5)


@settings(deadline=None)
@given(any_reply)
def test_no_form_of_reply_raises(reply: object) -> None:
    replies.read_finish(reply)
    replies.read_move(reply)
    replies.read_owned(reply)
    replies.read_settled(reply)
    replies.read_finished(reply)


def test_a_delay_past_all_numbers_is_no_time_that_has_passed() -> None:
    # Node lets a producer say `delay: Number.MAX_VALUE`; its score overflows in the script.
    assert replies.read_claim([0, None, 0, -(2**63)]) == Nothing()

"""Every call is built as the head comment of its Lua script says."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import msgpack
import pytest

from worker_core._bullmq import calls, scripts
from worker_core._bullmq.adding import AddOptions, Parent, add, read_added
from worker_core._bullmq.calls import ClaimOptions, Failure, Finish
from worker_core._bullmq.cancelling import begin_cancel, end_cancel, review_wishes
from worker_core._bullmq.flows import ChildKeys, count_children, wait_for_children
from worker_core._bullmq.job import Backoff, JobOptions, KeepJobs, StoredJob
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.managing import remove, reprocess
from worker_core._bullmq.outbox import OutboxEntry, deliver_letter, find_standing
from worker_core._bullmq.scheduling import make_next
from worker_core._bullmq.scripts import OWN_SCRIPTS, WORKER_SCRIPTS, _package_folder, load_scripts
from worker_core._bullmq.streams import Place, add_entry
from worker_core.add_options import ChildFailure

if TYPE_CHECKING:
    from worker_core._bullmq.calls import ScriptCall

KEYS = QueueKeys("bull", "mail")
OPTIONS = ClaimOptions(worker="w1", lock_ms=30_000, keep_failed=KeepJobs(count=5))
JOB = StoredJob(id="7", options=JobOptions(attempts=3, fail_parent=True, keep_logs=9))
CHILDREN = ChildKeys(KEYS.job("7"))
SCHEDULED = StoredJob(
    id="7", scheduler_id="tick", raw_options=b'{"repeat":{"every":5000,"count":1}}'
)
FAILURE = Failure(reason="é".encode(), stacktrace=b'["trace"]', history=b"[{}]")
ENTRY = OutboxEntry(job_id="7", name="n", created_ms=1, token="t:1", worker="w1", at_ms=1234)
COMPLETED = Finish(completed=True, value=b'{"a":1}', at_ms=1234)
FAILED = Finish(completed=False, value=b"why", stacktrace=b"[]", at_ms=1234)

CALLS: dict[str, ScriptCall] = {
    "claim": calls.claim(KEYS, "t:1", OPTIONS),
    "complete": calls.finish(KEYS, JOB, "t:1", COMPLETED, OPTIONS, fetch_next=True),
    "fail": calls.finish(KEYS, JOB, "t:1", FAILED, OPTIONS, fetch_next=False),
    "retry": calls.retry(KEYS, JOB, "t:1", FAILURE),
    "delay": calls.delay(KEYS, JOB, "t:1", 250, failure=FAILURE),
    "give back": calls.give_back(KEYS, "7", "t:1"),
    "extend locks": calls.extend_locks(KEYS, [("7", "t:1"), ("8", "t:2")], 30_000),
    "is finished": calls.is_finished(KEYS, "7"),
    "progress": calls.update_progress(KEYS, "7", b"50"),
    "log": calls.add_log(KEYS, "7", "line", 9),
    "sweep stalled": calls.sweep_stalled(KEYS, 1, 30_000),
    "count jobs": calls.count_jobs(KEYS),
    "repair": calls.repair(KEYS, attrs.evolve(JOB, repairs={"atm": "0", "parent": ""}), "t:1"),
    "add entry": add_entry(KEYS, "7", "t:1", b"{}", place=Place.FRESH, ttl=timedelta(hours=1)),
    "begin to cancel": begin_cancel(KEYS, "7", "t:1", 30_000),
    "end a cancel": end_cancel(KEYS, "7", b"1234"),
    "review wishes": review_wishes(KEYS),
    "find owned": calls.find_owned(KEYS, "t:1"),
    "wait for children": wait_for_children(KEYS, "7", "t:1"),
    "count children": count_children(KEYS, "7"),
    "make next": make_next(KEYS, SCHEDULED, now_ms=1000),
    "deliver a letter": deliver_letter(KEYS, KEYS.dead, ENTRY),
    "find a standing": find_standing(KEYS, "7"),
    "retry by hand": reprocess(KEYS, "7", lifo=False),
    "remove": remove(KEYS, "7"),
    "add": add(KEYS, "n", b"{}", AddOptions()),
    "add delayed": add(KEYS, "n", b"{}", AddOptions(delay=timedelta(seconds=2))),
    "add prioritized": add(KEYS, "n", b"{}", AddOptions(priority=3)),
}

LETTER_KEYS = (
    *("wait", "paused", "meta", "id", "completed", "delayed", "active", "events", "marker"),
)
MEANINGS: dict[str, str] = {
    "wait": KEYS.wait,
    "active": KEYS.active,
    "prioritized": KEYS.prioritized,
    "event": KEYS.events,
    "events": KEYS.events,
    "event stream": KEYS.events,
    "events stream": KEYS.events,
    "stream events": KEYS.events,
    "stalled": KEYS.stalled,
    "rate limiter": KEYS.limiter,
    "limiter": KEYS.limiter,
    "delayed": KEYS.delayed,
    "paused": KEYS.paused,
    "meta": KEYS.meta,
    "pc priority counter": KEYS.pc,
    "marker": KEYS.marker,
    "completed": KEYS.completed,
    "failed": KEYS.failed,
    "job": KEYS.job("7"),
    "jobid": KEYS.job("7"),
    "job id": KEYS.job("7"),
    "job logs": KEYS.logs("7"),
    "lock": KEYS.lock("7"),
    "stream": KEYS.tokens("7"),
    "id": KEYS.id,
    "stalled-check": KEYS.stalled_check,
    "repeat": KEYS.repeat,
    "prefix": KEYS.base,
    "producer": KEYS.job("7"),
    "wait-children": KEYS.waiting_children,
    "waiting-children": KEYS.waiting_children,
    "wishes": KEYS.wishes,
    "completed metrics": KEYS.metrics("completed"),
    "failed metrics": KEYS.metrics("failed"),
    "job dependencies": CHILDREN.pending,
    "unprocessed": CHILDREN.pending,
    "processed": CHILDREN.values,
    "ignored": CHILDREN.failures,
    "job unsuccessful": CHILDREN.unsuccessful,
    "outbox": KEYS.dead_outbox,
    "job state": KEYS.failed,
    "priority counter": KEYS.pc,
    "jobkey": KEYS.job("7"),
    **{f"letters {name}": getattr(KEYS.dead, name) for name in LETTER_KEYS},
}
"""What a head comment calls a key, with the key that is meant. Some depend on the call, see below."""


def head_of(call: ScriptCall) -> str:
    return call.script.source.decode().partition("]]")[0]


def described_keys(call: ScriptCall) -> dict[int, str]:
    found = re.findall(r"KEYS\[(\d+)\]\s*=?\s*(.+)", head_of(call))
    noise = r"['\",]|\bkey\b|\((SET|LIST|KEY|STREAM)\)"
    return {int(number): re.sub(noise, "", text).strip().lower() for number, text in found}


@pytest.mark.parametrize("name", CALLS)
def test_there_are_as_many_keys_as_the_file_name_says(name: str) -> None:
    call = CALLS[name]
    own = call.script.name in OWN_SCRIPTS
    folder = Path(scripts.__file__).with_name("lua") if own else _package_folder() / "commands"
    (file,) = folder.glob(f"{call.script.name}-*.lua")
    own_part = file.read_bytes().partition(b"  --- @include")[0]
    assert call.script.source.startswith(own_part)
    assert len(call.keys) == int(file.stem.rpartition("-")[2])


@pytest.mark.parametrize("name", CALLS)
def test_the_keys_are_those_of_the_head_comment_in_its_order(name: str) -> None:
    call = CALLS[name]
    meanings = {**MEANINGS}
    if name in {"complete", "fail"}:
        target = "completed" if name == "complete" else "failed"
        meanings |= {"completed/failed": KEYS.base + target, "metrics": KEYS.metrics(target)}
    if name == "count children":
        meanings["failed"] = CHILDREN.unsuccessful
    described = described_keys(call)
    assert sorted(described) == list(range(1, len(call.keys) + 1))
    assert [meanings[described[n]] for n in sorted(described)] == list(call.keys)


@pytest.mark.parametrize("name", CALLS)
def test_there_are_as_many_arguments_as_the_head_comment_says(name: str) -> None:
    call = CALLS[name]
    if re.search(r"ARGV(\[1\.\.\.\])?\s", head_of(call)):  # as many as there are
        assert call.args
    else:
        assert len(call.args) == len(set(re.findall(r"ARGV\[(\d+)\]", head_of(call))))


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_is_one_that_redis_takes(name: str) -> None:
    assert all(type(argument) in {str, bytes, int, float} for argument in CALLS[name].args)


def unpacked(argument: object) -> Any:
    assert isinstance(argument, bytes)
    return msgpack.unpackb(argument)


def named_options(call: ScriptCall) -> set[str]:
    return set(re.findall(r"opts - (\w+)", head_of(call)))


def test_a_claim_says_who_and_for_how_long() -> None:
    call = CALLS["claim"]
    prefix, timestamp, packed = call.args
    assert prefix == "bull:mail:"
    assert isinstance(timestamp, int)
    # No limiter: `{max}` alone would leave an active job without a lock.
    assert unpacked(packed) == {"token": "t:1", "lockDuration": 30_000, "name": "w1"}
    assert unpacked(packed).keys() <= named_options(call)


def test_completing_writes_the_value_and_asks_for_the_next() -> None:
    call = CALLS["complete"]
    *plain, packed, fields = call.args
    assert plain == ["7", 1234, "returnvalue", b'{"a":1}', "completed", 1, "bull:mail:"]
    assert fields == b""
    options = unpacked(packed)
    assert options == {
        "token": "t:1",
        "name": "w1",
        "keepJobs": {"count": -1},
        "lockDuration": 30_000,
        "attempts": 3,
        "maxMetricsSize": "",
        "fpof": True,
        "cpof": False,
        "idof": False,
        "rdof": False,
    }
    assert options.keys() <= named_options(call)


def test_failing_writes_the_reason_as_text_and_the_traces() -> None:
    *plain, packed, fields = CALLS["fail"].args
    assert plain == ["7", 1234, "failedReason", b"why", "failed", 0, "bull:mail:"]
    assert unpacked(packed)["keepJobs"] == {"count": 5}
    assert unpacked(fields) == ["failedReason", "why", "stacktrace", "[]"]


def test_the_jobs_own_wish_to_be_kept_goes_first() -> None:
    job = StoredJob(
        id="7",
        options=JobOptions(
            remove_on_complete=KeepJobs(age=60), remove_on_fail=KeepJobs(count=0, limit=2)
        ),
    )
    for ending, kept in ((COMPLETED, {"age": 60}), (FAILED, {"count": 0, "limit": 2})):
        call = calls.finish(KEYS, job, "t:1", ending, OPTIONS, fetch_next=True)
        assert unpacked(call.args[7])["keepJobs"] == kept


def test_a_retry_spends_an_attempt_at_the_head_or_the_tail() -> None:
    prefix, _, push, job_id, token, fields = CALLS["retry"].args
    assert (prefix, push, job_id, token) == ("bull:mail:", "LPUSH", "7", "t:1")
    assert unpacked(fields) == [
        *("failedReason", "é", "stacktrace", '["trace"]', "wc:history", "[{}]")
    ]
    lifo = StoredJob(id="7", options=JobOptions(lifo=True))
    assert calls.retry(KEYS, lifo, "t:1", FAILURE).args[2] == "RPUSH"


def test_a_delay_says_how_long_and_whether_an_attempt_is_spent() -> None:
    prefix, _, job_id, token, delay, skip, fields, fetch_next, options = CALLS["delay"].args
    assert (prefix, job_id, token, delay, skip) == ("bull:mail:", "7", "t:1", 250, "0")
    assert (fetch_next, options) == ("0", b"")
    assert unpacked(fields)[0] == "failedReason"
    spared = calls.delay(KEYS, JOB, "t:1", 250, failure=None, skip_attempt=True)
    assert spared.args[5:7] == ("1", b"")
    job = StoredJob(id="7", attempts_made=2)
    put_off = calls.delay(
        KEYS, job, "t:1", 250, failure=None, skip_attempt=True, put_off_since_ms=1234
    )
    assert put_off.args[5] == "1"
    assert unpacked(put_off.args[6]) == ["wc:put-off", "2:1234"]


def test_locks_are_extended_in_one_call_tokens_before_ids() -> None:
    prefix, tokens, ids, lock_ms = CALLS["extend locks"].args
    assert (prefix, lock_ms) == ("bull:mail:", 30_000)
    assert unpacked(tokens) == ["t:1", "t:2"]
    assert unpacked(ids) == ["7", "8"]


def test_the_small_calls_have_their_arguments_in_order() -> None:
    assert CALLS["give back"].args == ("7", "t:1", "bull:mail:7")
    assert CALLS["is finished"].args == ("7", "1")
    assert CALLS["progress"].args == ("7", b"50")
    assert CALLS["log"].args == ("7", "line", 9)
    assert calls.add_log(KEYS, "7", "line", None).args == ("7", "line", "")
    assert CALLS["find owned"].args == ("bull:mail:", "t:1")


def test_adding_says_everything_under_bullmqs_names() -> None:
    options = AddOptions(
        job_id="mine",
        attempts=4,
        backoff=Backoff("exponential", 100, 0.5),
        delay=timedelta(seconds=1.5),
        priority=2,
        lifo=True,
        keep_completed=0,
        keep_failed=10,
    )
    call = add(KEYS, "greet", b'{"a":1}', options)
    arguments, data, packed = call.args
    assert unpacked(arguments)[:3] == ["bull:mail:", "mine", "greet"]
    assert unpacked(arguments)[4:] == [None] * 5
    assert len(unpacked(arguments)) == len(re.findall(r"^\s+\[\d\]", head_of(call), re.MULTILINE))
    assert data == b'{"a":1}'
    assert unpacked(packed) == {
        "attempts": 4,
        "backoff": {"type": "exponential", "delay": 100, "jitter": 0.5},
        "delay": 1500,
        "priority": 2,
        "lifo": True,
        "jobId": "mine",
        "removeOnComplete": 0,
        "removeOnFail": 10,
    }


def test_what_is_not_wished_for_is_not_said() -> None:
    assert unpacked(CALLS["add"].args[2]) == {"attempts": 1}


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"priority": -1}, {"priority": 2**21}])
def test_options_that_bullmq_refuses_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        AddOptions(**wrong)  # type: ignore[arg-type]


def test_the_id_of_an_added_job_is_read() -> None:
    assert read_added(b"12") == "12"


@pytest.mark.parametrize(
    ("reply", "said"),
    [(-5, "parent is not there any more"), (-7, "with another parent"), (-1, "answered -1")],
)
def test_a_job_that_was_not_added_says_why(reply: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_added(reply)


@pytest.mark.parametrize("failure", ChildFailure)
def test_a_child_is_added_as_node_adds_it(failure: ChildFailure) -> None:
    parent = Parent(keys=QueueKeys("bull", "flows"), id="9", if_child_fails=failure)
    flag = {failure.value: True} if failure.value else {}
    arguments, _, options = add(KEYS, "n", b"{}", AddOptions(), parent).args
    assert unpacked(arguments)[4:] == [
        "bull:flows:9",
        "bull:flows:9:dependencies",
        {"id": "9", "queueKey": "bull:flows", **flag},
        None,
        None,
    ]
    assert unpacked(options) == {
        "attempts": 1,
        "parent": {"id": "9", "queue": "bull:flows"},
        **flag,
    }


def test_telemetry_is_given_along() -> None:
    options = AddOptions(telemetry="00-ab-cd-01", omit_telemetry=True)
    packed = add(KEYS, "n", b"{}", options).args[2]
    assert unpacked(packed) == {"attempts": 1, "tm": "00-ab-cd-01", "omc": True}


def test_every_script_of_a_worker_has_a_builder() -> None:
    built = {call.script.name for call in CALLS.values()}
    assert {script.name for script in load_scripts()} == {*WORKER_SCRIPTS, *OWN_SCRIPTS}
    assert built >= {*WORKER_SCRIPTS, *OWN_SCRIPTS}


def test_a_letter_is_a_job_of_its_own_whose_id_says_which_failure_it_is_of() -> None:
    arguments, options, field = CALLS["deliver a letter"].args
    assert unpacked(arguments)[:3] == ["bull:mail-dead:", "7-1234", "n"]
    assert unpacked(options) == {"attempts": 1, "jobId": "7-1234"}
    assert field == ENTRY.field()


def test_a_script_that_includes_another_has_all_of_it() -> None:
    source = CALLS["deliver a letter"].script.source
    assert CALLS["add"].script.source in source


def test_a_job_is_retried_by_hand_where_node_would_put_it() -> None:
    assert CALLS["retry by hand"].args == ("7", "LPUSH", "failedReason", "failed", "0", "0")
    assert reprocess(KEYS, "7", lifo=True).args[1] == "RPUSH"

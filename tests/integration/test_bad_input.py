"""Jobs that nobody should have added: each ends in `failed` at once and says why, none blocks the
queue or stays active, whatever bytes stand in its hash."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.support import (
    CHAT,
    PROBE,
    Ledger,
    chat,
    fields_of,
    locks,
    probe,
    put,
    running,
    state_of,
)
from worker_core.testing.polling import eventually_async

BASE = f"bull:{PROBE}"


# A chat job's data


@pytest.fixture
async def chat_worker(start_worker, fake_engine):
    return await start_worker(
        {
            "worker": {"plugins": ["chat"], "engine": "ollama"},
            "plugins": {
                "chat": {"allowed_models": ["llama3"], "max_prompt_chars": 1000},
                "ollama": {"base_url": fake_engine.url},
            },
        }
    )


def chat_with(**members):
    return json.dumps({**chat("hi"), **members}).encode()


def chat_text(text):
    """A chat job's JSON with `text` as it is written: escapes, or what is no JSON."""
    return b'{"model": "llama3", "messages": [{"role": "user", "content": %s}]}' % text


def chat_and(member):
    return b'{"model": "llama3", "messages": [{"role": "user"}], %s}' % member


WRONG_DATA = {
    "no JSON": (b"not json", "not JSON"),
    "nothing": (b"", "not JSON"),
    "half of an object": (b'{"model": "llama3", "mess', "not JSON"),
    "no text": (b"\xff\xfe{}", "not UTF-8"),
    "null": (b"null", "expected an object"),
    "a list": (b"[1, 2]", "expected an object"),
    "a text": (b'"hi"', "expected an object"),
    "an empty object": (b"{}", "model: missing; messages: missing"),
    "no model": (b'{"messages": [{"role": "user"}]}', "model: missing"),
    "an empty model": (chat_with(model=""), "model: must not be empty"),
    "a model that is a number": (chat_with(model=3), "model: expected text"),
    "a model that is not allowed": (chat_with(model="gpt-5"), "model: 'gpt-5' is not allowed"),
    "no messages": (b'{"model": "llama3"}', "messages: missing"),
    "empty messages": (chat_with(messages=[]), "messages: must not be empty"),
    "messages that are an object": (chat_with(messages={}), "messages: expected a list"),
    "a message that is a text": (chat_with(messages=["hi"]), "messages[0]: expected an object"),
    "an unknown role": (
        chat_with(messages=[{"role": "user"}, {"role": "wizard"}]),
        "messages[1].role: expected one of",
    ),
    "content that is a list": (
        chat_with(messages=[{"role": "user", "content": ["hi"]}]),
        "messages[0].content: expected text",
    ),
    "a long prompt": (
        chat_with(messages=[{"role": "user", "content": "x" * 1001}]),
        "messages: 1001 characters are over the limit of 1000",
    ),
    "half an emoji": (chat_text(rb'"\ud83d"'), "messages[0].content: text with half a character"),
    "the other half": (chat_text(rb'"x\ude00y"'), "messages[0].content: text with half"),
    "half an emoji in raw bytes": (chat_text(b'"\xed\xa0\xbd"'), "messages[0].content: "),
    "NaN": (chat_and(b'"temperature": NaN'), "temperature: not a finite number"),
    "infinity": (chat_and(b'"top_p": -Infinity'), "top_p: not a finite number"),
    "a number over all floats": (chat_and(b'"top_p": 1e999'), "top_p: not a finite number"),
    "NaN in options": (chat_and(b'"options": {"a": [1, NaN]}'), "options.a[1]: not a finite"),
    "nesting 1000 deep": (
        chat_and(b'"metadata": {"a": ' + b"[" * 1000 + b"]" * 1000 + b"}"),
        "nested deeper than 128 levels",
    ),
    "a million brackets": (b"[" * 1_000_000, "nested deeper than 128 levels"),
    "65 bits": (chat_and(b'"seed": 18446744073709551616'), "seed: an integer beyond 64 bits"),
    "10000 digits": (chat_and(b'"seed": ' + b"9" * 10_000), "seed: an integer beyond 64 bits"),
    "a negative temperature": (chat_with(temperature=-1), "temperature: must not be negative"),
    "a format that is a number": (chat_with(format=7), "format: must be"),
    "a time that is no time": (chat_with(timeout="soon"), "timeout: "),
    "no time at all": (chat_with(timeout=0), "timeout: must be longer than nothing"),
    "a time beyond all calendars": (chat_with(timeout=1e300), "timeout: must be longer than"),
    "an option said twice": (
        chat_with(temperature=1, options={"temperature": 0}),
        "temperature: is said again by options.temperature",
    ),
}


@pytest.mark.parametrize(("data", "reason"), WRONG_DATA.values(), ids=WRONG_DATA)
async def test_wrong_data_fails_at_once_and_the_worker_goes_on(valkey, chat_worker, data, reason):
    client = valkey.client
    bad = put(client, CHAT, data, attempts=3)
    good = put(client, CHAT, chat("good"))
    await eventually_async(lambda: state_of(client, good, CHAT) == "completed")
    await eventually_async(lambda: state_of(client, bad, CHAT) == "failed")
    fields = fields_of(client, bad, CHAT)
    assert reason in fields["failedReason"]
    assert fields["failedReason"].startswith("invalid request: ")
    assert len(fields["failedReason"]) < 2000
    assert fields["atm"] == fields["ats"] == "1"
    assert "InvalidRequest" in json.loads(fields["stacktrace"])[0]
    assert locks(client) == []


async def test_every_fault_is_named_not_only_the_first(valkey, chat_worker):
    data = {
        "model": "",
        "messages": [{"role": "nobody", "content": 1}, {}],
        "temperature": "hot",
        "seed": 1.5,
        "keep_alive": [],
    }
    bad = put(valkey.client, CHAT, data)
    await eventually_async(lambda: state_of(valkey.client, bad, CHAT) == "failed")
    reason = fields_of(valkey.client, bad, CHAT)["failedReason"]
    paths = ("model", "messages[0].role", "messages[0].content", "messages[1].role")
    for path in (*paths, "temperature", "seed", "keep_alive"):
        assert f"{path}: " in reason


async def test_a_misspelt_member_is_a_warning(valkey, chat_worker):
    job_id = put(valkey.client, CHAT, {**chat("hi"), "temprature": 1})
    await eventually_async(lambda: state_of(valkey.client, job_id, CHAT) == "completed")
    envelope = json.loads(fields_of(valkey.client, job_id, CHAT)["returnvalue"])
    assert envelope["warnings"] == ["unknown member 'temprature' was ignored"]


# A job's own fields


WRONG_NUMBERS = (
    "x",
    "",
    "1.5",
    "1e3",
    "nan",
    "inf",
    "9" * 30,
    "-9223372036854775809",
    "0x10",
    "1 ",
)

WRONG_FIELDS = {
    **{f"atm {value!r}": ({"atm": value}, "atm: ") for value in WRONG_NUMBERS},
    **{f"ats {value!r}": ({"ats": value}, "ats: ") for value in WRONG_NUMBERS},
    "timestamp": ({"timestamp": "yesterday"}, "timestamp: "),
    "priority": ({"priority": "high"}, "priority: "),
    "several": ({"atm": "x", "ats": "y", "timestamp": "z"}, "atm: "),
    "opts without JSON": ({"opts": "not json"}, "opts: not JSON"),
    "opts that are a list": ({"opts": "[]"}, "opts: expected an object"),
    "opts nested": ({"opts": "[" * 5000}, "opts: nested deeper"),
    "attempts": ({"opts": '{"attempts": "many"}'}, "opts.attempts: expected a whole number"),
    "attempts NaN": ({"opts": '{"attempts": NaN}'}, "opts.attempts: not a finite number"),
    "backoff": ({"opts": '{"backoff": "fast"}'}, "opts.backoff: expected an object"),
    "backoff.delay": (
        {"opts": '{"backoff": {"type": "fixed", "delay": "x"}}'},
        "opts.backoff.delay",
    ),
    "removeOnComplete": ({"opts": '{"removeOnComplete": "old"}'}, "opts.removeOnComplete: "),
    "removeOnFail": ({"opts": '{"removeOnFail": {"count": []}}'}, "opts.removeOnFail.count: "),
    "parent without JSON": ({"parent": "not json"}, "parent: "),
    "parent null": ({"parent": "null"}, "parent: "),
    "parent number": ({"parent": "5", "parentKey": "bull:p:1"}, "parent: "),
    "parent text": ({"parent": '"me"', "parentKey": "bull:p:1"}, "parent: "),
    "parent empty": ({"parent": "{}"}, "parent: "),
    "parent without queue": ({"parent": '{"id": "1"}', "parentKey": "bull:p:1"}, "parent: "),
    "parentKey": ({"parentKey": "me"}, "parentKey: "),
    "parent with a number": ({"parent": '{"id": [], "queueKey": "bull:p"}'}, "parent: "),
}


async def ends(client, ledger, job_id):
    """Run a worker until a good job behind `job_id` is done; the state of `job_id` then."""
    good = put(client, PROBE, {"text": "good"})
    async with running(
        f"redis://127.0.0.1:{client.get_connection_kwargs()['port']}", probe(ledger)
    ):
        await eventually_async(lambda: state_of(client, good) == "completed")
        await eventually_async(lambda: state_of(client, job_id) not in {"active", "wait"})
    assert locks(client) == []
    return state_of(client, job_id)


@pytest.mark.parametrize(("fields", "reason"), WRONG_FIELDS.values(), ids=WRONG_FIELDS)
async def test_a_job_with_a_wrong_field_fails_with_its_name(valkey, fields, reason):
    ledger = Ledger()
    job_id = put(valkey.client, PROBE, {}, attempts=3)
    valkey.client.hset(f"{BASE}:{job_id}", mapping=fields)
    assert await ends(valkey.client, ledger, job_id) == "failed"
    assert job_id not in ledger.began
    found = fields_of(valkey.client, job_id)
    assert reason in found["failedReason"]
    assert found["finishedOn"].isdigit()


@pytest.mark.parametrize("field", ["atm", "ats"])
async def test_a_wrong_number_does_not_harm_the_job_whose_finish_brings_it_along(valkey, field):
    """The script that finishes one job fetches the next: its error comes after the finish."""
    client, ledger = valkey.client, Ledger()
    first = put(client, PROBE, {"seconds": 0.2})
    poisoned = put(client, PROBE, {})
    client.hset(f"{BASE}:{poisoned}", field, "x")
    async with running(valkey.url, probe(ledger), {"worker": {"concurrency": 1}}):
        last = put(client, PROBE, {})
        await eventually_async(lambda: state_of(client, last) == "completed")
        assert state_of(client, first) == "completed"
        assert state_of(client, poisoned) == "failed"
    assert ledger.began == [first, last]
    assert fields_of(client, first)["atm"] == "1"
    assert locks(client) == []


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"stacktrace": "not json"}, id="stacktrace"),
        pytest.param({"stacktrace": '{"a": 1}'}, id="stacktrace object"),
        pytest.param({"name": b"\xff\x00"}, id="name"),
        pytest.param({"delay": "x"}, id="delay"),
        pytest.param({"returnvalue": "not json", "failedReason": b"\xff"}, id="leftovers"),
        pytest.param({b"\xff": b"\xfe", "": ""}, id="unknown fields"),
        pytest.param({"opts": ""}, id="no opts"),
        pytest.param({"opts": '{"attempts": 3.0, "removeOnComplete": 1e15}'}, id="floats"),
        pytest.param({"opts": '{"attempts": null, "backoff": null}'}, id="nulls"),
        pytest.param({"atm": "0", "ats": "7", "priority": "0"}, id="numbers"),
    ],
)
async def test_what_does_not_matter_to_the_run_does_not_stop_it(valkey, fields):
    ledger = Ledger()
    job_id = put(valkey.client, PROBE, {})
    valkey.client.hset(f"{BASE}:{job_id}", mapping=fields)
    assert await ends(valkey.client, ledger, job_id) == "completed"


@pytest.mark.parametrize("missing", ["data", "opts", "name", "timestamp", "everything"])
async def test_a_job_with_a_field_missing_ends(valkey, missing):
    ledger = Ledger()
    job_id = put(valkey.client, PROBE, {})
    if missing == "everything":
        valkey.client.delete(f"{BASE}:{job_id}")
    else:
        valkey.client.hdel(f"{BASE}:{job_id}", missing)
    state = await ends(valkey.client, ledger, job_id)
    if missing in {"data", "everything"}:
        assert state == "failed"
        assert "expected an object" in fields_of(valkey.client, job_id)["failedReason"]
    else:
        assert state == "completed"


async def test_a_deferred_failure_of_any_bytes_is_recorded(valkey):
    ledger = Ledger()
    job_id = put(valkey.client, PROBE, {})
    valkey.client.hset(f"{BASE}:{job_id}", "defa", b"\xff\xed\xa0\xbd")
    assert await ends(valkey.client, ledger, job_id) == "failed"
    assert job_id not in ledger.began


# Anything at all


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
OPTIONS = st.dictionaries(
    st.sampled_from(
        [
            *("attempts", "backoff", "lifo", "removeOnComplete", "removeOnFail", "keepLogs"),
            *("stackTraceLimit", "fpof", "cpof", "idof", "rdof", "priority", "delay", "jobId"),
        ]
    ),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.fixed_dictionaries({"type": st.text(max_size=5), "delay": st.floats() | st.integers()})
    | st.fixed_dictionaries({"count": st.integers(), "age": st.integers() | st.floats()}),
).map(lambda value: json.dumps(value).encode())
NUMBER = st.integers().map(lambda value: str(value).encode()) | st.floats().map(
    lambda value: str(value).encode()
)
ANY = st.binary(max_size=20) | JSONISH | NUMBER

HASHES = st.fixed_dictionaries(
    {},
    optional={
        "data": ANY | st.sampled_from([b"{}", b'{"do": "fail"}', b'{"text": "\\ud83d"}']),
        "opts": ANY | OPTIONS,
        "name": ANY,
        **dict.fromkeys(("atm", "ats", "timestamp", "priority", "delay", "stc"), ANY | NUMBER),
        **dict.fromkeys(("stacktrace", "parent", "parentKey", "deid", "rjk", "defa", "pb"), ANY),
        "processedOn": NUMBER,
    },
)


@attrs.frozen
class Anything:
    """What hypothesis made of a job, as it stands in the server."""

    job_id: str
    fields: dict[str, bytes]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(hashes=st.lists(HASHES, min_size=1, max_size=12))
async def test_no_bytes_leave_a_job_active(valkey, hashes):
    client, ledger = valkey.client, Ledger()
    client.flushall()
    jobs = []
    for fields in hashes:
        job_id = put(client, PROBE, {})
        if fields:
            client.hset(f"{BASE}:{job_id}", mapping=fields)
        jobs.append(Anything(job_id, fields))

    def at_rest():
        return not client.llen(f"{BASE}:active") and not client.llen(f"{BASE}:wait")

    good = put(client, PROBE, {"text": "good"})
    async with running(valkey.url, probe(ledger)):
        await eventually_async(lambda: good in ledger.ended)
        await eventually_async(at_rest, what=f"nothing is active of {jobs}")
    assert locks(client) == []
    # Gone only where options say so: how many a job keeps is how many are kept of all.
    removes = any(b"removeOn" in job.fields.get("opts", b"") for job in jobs)
    gone = {None} if removes else set()
    assert state_of(client, good) in {"completed"} | gone
    states = {"completed", "failed", "delayed", "prioritized"} | gone
    for job in jobs:
        assert state_of(client, job.job_id) in states, job

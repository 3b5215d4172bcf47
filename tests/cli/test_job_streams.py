"""`worker-core jobs tail`, `jobs add --stream` and `jobs list` against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import anyio
import attrs
import pytest
from click.testing import CliRunner

from tests.integration.stream_support import end_by_hand
from tests.integration.support import CHAT, chat, put
from worker_core.cli.jobs import command
from worker_core.testing.polling import eventually

COMMAND = [sys.executable, "-m", "worker_core", "jobs"]
WORDS = "one two three four five"


def settings(engine):
    return {
        "worker": {"plugins": ["chat"]},
        "plugins": {"ollama": {"base_url": engine.url}},
    }


@pytest.fixture
def jobs(valkey, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", valkey.url)

    def run(*arguments):
        return CliRunner().invoke(command, arguments)

    return run


@pytest.fixture
def jobs_process(valkey, tmp_path):
    async def run(*arguments):
        return await anyio.run_process(
            [*COMMAND, *arguments, "--redis-url", valkey.url], check=False, cwd=tmp_path
        )

    return run


def write(valkey, job_id, *entries):
    for entry in entries:
        valkey.client.xadd(f"bull:{CHAT}:{job_id}:tokens", {"data": json.dumps(entry)})
        if entry["event"] == "end":
            end_by_hand(valkey.client, job_id, CHAT, entry.get("reason"))


def chunk(index, **members):
    return {"event": "chunk", "index": index, **members}


BEGIN = {"event": "begin", "index": 0, "attempt": 1}
END = {"event": "end", "index": 9, "outcome": "completed"}


def test_tail_prints_words_as_they_come(valkey, tmp_path):
    job_id = put(valkey.client, CHAT, chat("hi"))
    output = tmp_path / "out"
    with output.open("wb") as file:
        tail = subprocess.Popen(
            [*COMMAND, "tail", job_id, "--redis-url", valkey.url], stdout=file, cwd=tmp_path
        )
    with tail:
        write(valkey, job_id, BEGIN, chunk(1, content="one"))
        eventually(lambda: output.read_text() == "one", within=20)
        write(valkey, job_id, chunk(2, content=" two"))
        eventually(lambda: output.read_text() == "one two")
        write(valkey, job_id, END)
        assert tail.wait(10) == 0
    assert output.read_text() == "one two\n"


def test_tail_tells_beside_the_answer_what_happens_to_the_job(jobs, valkey):
    job_id = put(valkey.client, CHAT, chat("hi"))
    write(
        *(valkey, job_id, BEGIN, chunk(1, content="", thinking="hm"), chunk(2, content="one")),
        {"event": "stop", "index": 3, "outcome": "retried", "reason": "crashed: bang"},
        {**BEGIN, "attempt": 2},
        chunk(3, content="uno", tool_calls=[{"name": "f"}]),
        END,
    )
    ran = jobs("tail", job_id)
    assert ran.exit_code == 0, ran.output
    assert ran.stdout == "one\nuno\n"
    assert ran.stderr.splitlines() == [
        "hm",
        "retried: crashed: bang",
        "attempt 2 begins: what came before does not count",
        "2 entries are missing here; the job's result has all of it",
        'tool call: {"name": "f"}',
    ]


def test_tail_prints_items_as_json_and_resumes_behind_one(jobs, valkey):
    job_id = put(valkey.client, CHAT, chat("hi"))
    write(valkey, job_id, BEGIN, chunk(1, content="one"), chunk(2, content=" two"), END)
    lines = [json.loads(line) for line in jobs("tail", job_id, "--json").stdout.splitlines()]
    assert [line["item"] for line in lines] == ["chunk", "chunk", "end"]
    assert (lines[0]["content"], lines[-1]["outcome"]) == ("one", "completed")
    assert jobs("tail", job_id, "--after", lines[0]["id"]).stdout == " two\n"


def test_tail_of_a_job_that_failed_ends_with_its_reason(jobs, valkey):
    job_id = put(valkey.client, CHAT, chat("hi"))
    write(valkey, job_id, BEGIN, {**END, "outcome": "failed", "reason": "crashed: bang"})
    for options in ([], ["--json"]):
        ran = jobs("tail", job_id, *options)
        assert ran.exit_code == 1
        assert "error: job 1 on llm-chat failed: crashed: bang" in ran.stderr


def test_tail_says_what_it_cannot_follow(jobs, valkey):
    assert "does not exist" in jobs("tail", "7").stderr
    job_id = put(valkey.client, CHAT, chat("hi"))
    ran = jobs("tail", job_id, "--timeout", "100ms")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "did not end within 100ms" in ran.stderr


async def test_add_prints_a_streaming_answer_once(start_worker, fake_engine, jobs_process):
    await start_worker(settings(fake_engine))
    fake_engine.behaviour = attrs.evolve(fake_engine.behaviour, token_seconds=0.06)
    ask = ("add", "chat", "--model", "llama3", "--prompt", WORDS, "--stream", "--wait")
    ran = await jobs_process(*ask)
    assert (ran.returncode, ran.stdout) == (0, f"{WORDS}\n".encode()), ran.stderr
    assert ran.stderr == b"job 1 on llm-chat\n"
    whole = json.loads((await jobs_process(*ask, "--json")).stdout)
    assert whole["answer"]["message"]["content"] == WORDS


async def test_add_prints_the_answer_of_a_type_that_cannot_stream(start_worker, jobs_process):
    await start_worker({"worker": {"plugins": ["echo"], "engine": "none"}})
    ran = await jobs_process(
        *("add", "echo", "--queue", "echo", "--data", '{"text": "hi"}', "--stream", "--wait")
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == b"hi\n"
    assert b"unknown member 'stream'" in ran.stderr


async def test_a_streaming_job_that_fails_ends_the_command_with_its_reason(
    start_worker, fake_engine, jobs_process
):
    await start_worker(settings(fake_engine))
    ran = await jobs_process(
        "add", "chat", "--model", "nope", "--prompt", "hi", "--stream", "--wait"
    )
    assert ran.returncode == 1
    assert b"error: job 1 on llm-chat failed: model_missing: " in ran.stderr
    assert ran.stdout.strip() == b""


def test_stream_is_said_once(jobs, valkey):
    ran = jobs("add", "chat", "--stream", "--data", '{"stream": false}')
    assert ran.exit_code == 2
    assert "'stream' is in --data already" in ran.stderr
    assert jobs("add", "chat", "--stream").exit_code == 0
    assert json.loads(valkey.client.hget(f"bull:{CHAT}:1", "data")) == {"stream": True}


def test_list_prints_failed_jobs_newest_first(jobs, valkey):
    ids = [put(valkey.client, CHAT, chat("hi")) for _ in range(3)]
    client = valkey.client
    for number, job_id in enumerate(ids):
        client.lrem(f"bull:{CHAT}:wait", 0, job_id)
        client.zadd(f"bull:{CHAT}:failed", {job_id: number})
        fields = {"failedReason": f"no luck\n{job_id} " + "x" * 200, "pb": "w1", "atm": 1}
        client.hset(f"bull:{CHAT}:{job_id}", mapping=fields)
    out = jobs("list").stdout
    assert out.index("no luck 3") < out.index("no luck 2") < out.index("no luck 1")
    assert "w1" in out
    assert "x" * 101 not in out
    lines = jobs("list", "--state", "failed", "--limit", "2", "--json").stdout.splitlines()
    views = [json.loads(line) for line in lines]
    assert [(view["ref"]["id"], view["state"]) for view in views] == [
        ("3", "failed"),
        ("2", "failed"),
    ]
    assert "x" * 200 in views[0]["failed_reason"]


def test_list_finds_jobs_in_every_state(jobs, valkey):
    waiting = [put(valkey.client, CHAT, chat("hi")) for _ in range(3)]
    delayed = put(valkey.client, CHAT, chat("hi"), delay=timedelta(hours=1))
    urgent = put(valkey.client, CHAT, chat("hi"), priority=1)
    for state, found in (
        ("waiting", waiting),
        ("delayed", [delayed]),
        ("prioritized", [urgent]),
    ):
        lines = jobs("list", "--state", state, "--json").stdout.splitlines()
        assert [json.loads(line)["ref"]["id"] for line in lines] == found
    # The next one first.
    assert len(jobs("list", "--state", "waiting", "--limit", "1", "--json").stdout.split("\n")) == 2
    for state in ("active", "completed", "waiting-children", "failed"):
        ran = jobs("list", "--state", state)
        assert (ran.exit_code, ran.stdout) == (0, "")
        assert f"no {state} jobs on llm-chat" in ran.stderr
    assert jobs("list", "--state", "unknown").exit_code == 2


def test_a_paused_queue_holds_its_waiting_jobs_too(jobs, valkey):
    put(valkey.client, CHAT, chat("hi"))
    valkey.client.rename(f"bull:{CHAT}:wait", f"bull:{CHAT}:paused")
    assert len(jobs("list", "--state", "waiting", "--json").stdout.splitlines()) == 1

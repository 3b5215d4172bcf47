"""`worker-core dead-letter` against a real server."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import anyio
import pytest
import trio
from click.testing import CliRunner

from tests.integration.support import CHAT, PROBE, chat, probe, put, running, state_of
from worker_core.cli.dead_letter import command
from worker_core.testing.fake_engine import FaultAction, ScriptedFault
from worker_core.testing.polling import eventually_async

LETTERS = f"bull:{PROBE}-dead:wait"


@pytest.fixture
def dead_letter(valkey, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", valkey.url)

    def run(what, *arguments, queue=PROBE):
        return CliRunner().invoke(command, [what, "--queue", queue, *arguments])

    return run


@pytest.fixture
def failed(valkey):
    """Three jobs that failed for good, and their letters by the job's id."""
    redis = valkey.client
    jobs = (
        {"do": "fail for good", "text": "no luck", "model": "llama3"},
        {"do": "fail", "text": "no\nluck at all"},
        {"do": 3, "model": "llama3"},
    )

    async def fail():
        async with running(valkey.url, probe(), {"worker": {"id": "w1"}}):
            for job in jobs:
                put(redis, PROBE, job)
            await eventually_async(lambda: redis.llen(LETTERS) == 3)

    trio.run(fail)
    return {one.partition("-")[0]: one for one in ids(redis)}


def ids(redis):
    return [one.decode() for one in redis.lrange(LETTERS, 0, -1)]


def test_list_shows_who_failed_how(dead_letter, failed):
    ran = dead_letter("list")
    assert ran.exit_code == 0
    lines = ran.stdout.splitlines()
    for text in ("id", "queue", "class", "model", "failed", "attempts", "error"):
        assert text in lines[1]
    [row] = [line for line in lines if failed["2"] in line]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells[1:4] == [PROBE, "error", ""]
    assert cells[5:] == ["1", "RuntimeError: no luck at all"]


def test_list_can_be_told_which(dead_letter, failed):
    def listed(*arguments):
        ran = dead_letter("list", "--json", *arguments)
        assert ran.exit_code == 0, ran.output
        return sorted(json.loads(line)["job"]["id"] for line in ran.stdout.splitlines())

    assert listed() == ["1", "2", "3"]
    assert listed("--class", "error") == ["2"]
    assert listed("--class", "error", "--class", "unrecoverable") == ["1", "2"]
    assert listed("--model", "llama3:latest") == ["1", "3"]
    assert listed("--model", "llama3", "--class", "invalid_request") == ["3"]
    assert listed("--older-than", "1h") == []
    assert listed("--newer-than", "1h", "--queue", "another") == ["1", "2", "3"]
    assert len(listed("--limit", "2")) == 2
    assert dead_letter("list", "--class", "odd").exit_code == 2


def test_where_there_is_none_that_is_said(dead_letter):
    ran = dead_letter("list")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "", "no dead letters\n")


def test_show_prints_all_there_is(dead_letter, failed):
    ran = dead_letter("show", failed["1"])
    assert ran.exit_code == 0
    shown = dict(line.split(maxsplit=1) for line in ran.stdout.splitlines()[:-1])
    assert shown["job"] == f"1 (job) on {PROBE}"
    assert (shown["class"], shown["error"], shown["model"]) == (
        "unrecoverable",
        "no luck",
        "llama3",
    )
    assert json.loads(shown["data"])["text"] == "no luck"
    assert ran.stdout.splitlines()[-1].startswith("attempt 1")
    assert "on w1: no luck" in ran.stdout.splitlines()[-1]
    whole = json.loads(dead_letter("show", "--json", failed["1"]).stdout)
    assert whole["id"] == failed["1"]
    assert whole["error"] == {"class": "unrecoverable", "message": "no luck"}
    assert [one["class"] for one in whole["attempts"]] == ["unrecoverable"]


def test_show_of_what_is_not_there_fails(dead_letter):
    ran = dead_letter("show", "7-1")
    assert (ran.exit_code, ran.stderr) == (1, "error: there is no dead letter 7-1 of probe\n")


def test_retry_by_id_asks_nothing_and_says_what_became_of_each(valkey, dead_letter, failed):
    redis = valkey.client
    redis.zrem(f"bull:{PROBE}:failed", "2")
    redis.lpush(f"bull:{PROBE}:active", "2")
    redis.zrem(f"bull:{PROBE}:failed", "3")
    redis.delete(f"bull:{PROBE}:3")
    ran = dead_letter("retry", failed["1"], failed["2"], "7-1", failed["3"])
    assert ran.stdout.splitlines() == [
        f"{failed['1']} is put back: it waits again",
        f"{failed['2']} is kept: the job is on its queue and has not failed, or its id is another's",
        f"{failed['3']} is added anew: it was gone from its queue",
    ]
    assert (ran.exit_code, ran.stderr) == (1, "error: there is no dead letter 7-1 of probe\n")
    assert [state_of(redis, one) for one in ("1", "2", "3")] == ["wait", "active", "wait"]
    assert ids(redis) == [failed["2"]]


@pytest.mark.parametrize("what", ["retry", "purge"])
def test_without_a_terminal_yes_is_needed(valkey, dead_letter, failed, what):
    ran = dead_letter(what, "--model", "llama3")
    assert ran.exit_code == 2
    assert "2 dead letters" in ran.stderr
    assert "give --yes" in ran.stderr
    assert len(ids(valkey.client)) == 3


@pytest.mark.parametrize("what", ["retry", "purge"])
@pytest.mark.parametrize(
    "arguments", [[], ["--yes"], ["1-1", "--all"], ["1-1", "--class", "error", "--yes"]], ids=str
)
def test_which_letters_are_meant_must_be_clear(valkey, dead_letter, failed, what, arguments):
    ran = dead_letter(what, *arguments)
    assert ran.exit_code == 2
    assert len(ids(valkey.client)) == 3


def test_purge_throws_away_what_it_is_told_and_leaves_the_jobs(valkey, dead_letter, failed):
    redis = valkey.client
    ran = dead_letter("purge", "--class", "error", "--yes")
    assert (ran.exit_code, ran.stdout) == (0, "1 dead letter thrown away\n")
    assert failed["2"] not in ids(redis)
    assert state_of(redis, "2") == "failed"
    ran = dead_letter("purge", failed["1"], "7-1", "--yes")
    assert (ran.exit_code, ran.stdout) == (1, "1 dead letter thrown away\n")
    assert "7-1" in ran.stderr
    assert dead_letter("purge", "--all", "--yes").exit_code == 0
    assert ids(redis) == []
    assert list(redis.scan_iter(f"bull:{PROBE}-dead:{failed['1']}*")) == []


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 1, 3), ("", 1, 3)])
def test_on_a_terminal_it_asks(valkey, dead_letter, failed, tmp_path, answer, code, left):
    ours, theirs = pty.openpty()
    arguments = ["dead-letter", "purge", "--queue", PROBE, "--all", "--redis-url", valkey.url]
    process = subprocess.Popen(
        [sys.executable, "-m", "worker_core", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    assert process.wait(20) == code
    asked = process.stderr.read().decode()
    process.stderr.close()
    os.close(ours)
    assert f"3 dead letters of {PROBE} to be thrown away: go on? [y/N]" in asked
    assert len(ids(valkey.client)) == left


async def test_jobs_that_ran_out_of_memory_are_put_back_and_complete(
    valkey, fake_engine, start_worker, dead_letter
):
    redis = valkey.client
    no_room = "model requires more system memory (9.1 GiB) than is available (3.2 GiB)"
    fault = ScriptedFault(
        action=FaultAction.STATUS, status=500, error=no_room, contains="too much", count=None
    )
    fake_engine.script(fault)
    await start_worker(
        {
            "worker": {"plugins": ["chat"]},
            "plugins": {"ollama": {"base_url": fake_engine.url, "max_retries": 0}},
        }
    )
    big = [put(redis, CHAT, chat(f"too much {number}")) for number in range(3)]
    wrong = put(redis, CHAT, {"model": "llama3"})
    await eventually_async(lambda: redis.llen(f"bull:{CHAT}-dead:wait") == 4)
    fake_engine.reset()

    def run():
        return dead_letter("retry", "--class", "out_of_memory", "--yes", queue=CHAT)

    ran = await anyio.to_thread.run_sync(run)
    assert ran.exit_code == 0, ran.output
    await eventually_async(lambda: [state_of(redis, one, CHAT) for one in big] == ["completed"] * 3)
    [kept] = redis.lrange(f"bull:{CHAT}-dead:wait", 0, -1)
    assert kept.decode().startswith(f"{wrong}-")

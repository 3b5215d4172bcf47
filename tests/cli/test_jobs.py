"""`worker-core jobs` against a real server; waiting commands as processes."""

from __future__ import annotations

import json
import subprocess
import sys

import anyio
import pytest
from click.testing import CliRunner

from worker_core.cli.jobs import command
from worker_core.testing.polling import eventually_async

COMMAND = [sys.executable, "-m", "worker_core", "jobs"]


def chat(engine):
    return {
        "worker": {"plugins": ["chat"], "engine": "ollama"},
        "plugins": {"ollama": {"base_url": engine.url}},
    }


@pytest.fixture
def jobs(valkey, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", valkey.url)

    def run(*arguments, stdin=None):
        return CliRunner().invoke(command, arguments, input=stdin)

    return run


@pytest.fixture
def jobs_process(valkey, tmp_path):
    async def run(*arguments):
        return await anyio.run_process(
            [*COMMAND, *arguments, "--redis-url", valkey.url], check=False, cwd=tmp_path
        )

    return run


def data_of(valkey, job_id, queue="llm-chat"):
    return json.loads(valkey.client.hget(f"bull:{queue}:{job_id}", "data"))


def test_add_prints_the_id_of_a_chat(jobs, valkey):
    ran = jobs(
        *("add", "chat", "--model", "llama3", "--prompt", "why?", "--system", "be brief"),
        *("--option", "temperature=0", "--option", "stop=END"),
    )
    assert ran.exit_code == 0, ran.output
    assert data_of(valkey, ran.stdout.strip()) == {
        "model": "llama3",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "why?"},
        ],
        "options": {"temperature": 0, "stop": "END"},
    }


def test_add_takes_data_and_options_of_any_type(jobs, valkey):
    ran = jobs(
        *("add", "echo", "--queue", "echo", "--data", '{"text": "hi"}', "--json"),
        *("--attempts", "3", "--priority", "2", "--delay", "1m"),
    )
    assert json.loads(ran.stdout) == {"id": "1", "queue": "echo"}
    assert data_of(valkey, 1, "echo") == {"text": "hi"}
    options = json.loads(valkey.client.hget("bull:echo:1", "opts"))
    assert options == {"attempts": 3, "priority": 2, "delay": 60_000}


def test_add_reads_data_from_standard_input_and_adds_to_it(jobs, valkey):
    ran = jobs("add", "chat", "--data", "-", "--model", "m", stdin='{"messages": []}')
    assert ran.exit_code == 0, ran.output
    assert data_of(valkey, 1) == {"messages": [], "model": "m"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chat", "--data", "{"], "--data: not JSON"),
        (["chat", "--data", "[]", "--model", "m"], "must be a JSON object"),
        (["chat", "--data", '{"model": "a"}', "--model", "m"], "'model' is in --data already"),
        (["chat", "--option", "temperature"], "NAME=VALUE"),
        (["chat", "--delay", "soon"], "expected a duration"),
        (["chat", "--attempts", "0"], "attempts"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(jobs, valkey, arguments, words):
    ran = jobs("add", *arguments)
    assert ran.exit_code == 2
    assert words in ran.stderr
    assert valkey.client.dbsize() == 0


def test_a_type_without_a_queue_is_refused(jobs):
    ran = jobs("add", "echo")
    assert ran.exit_code == 1
    assert "has no default queue" in ran.stderr


def test_a_file_says_where_the_queues_are(jobs, valkey, tmp_path, monkeypatch):
    monkeypatch.delenv("REDIS_URL")
    file = tmp_path / "worker.toml"
    # A plugin that is not installed, and a table with a fault: neither is these commands' concern.
    file.write_text(
        f'[worker]\nplugins = ["nope"]\n[redis]\nurl = "{valkey.url}"\nreply_timeout = 3\n'
        '[queue]\nprefix = "mine"\n'
    )
    assert jobs("add", "chat", "--config", str(file)).exit_code == 0
    assert valkey.client.exists("mine:llm-chat:1")
    assert jobs("add", "chat", "--config", str(file), "--prefix", "flag").exit_code == 0
    assert valkey.client.exists("flag:llm-chat:1")


def test_a_file_that_cannot_be_read_is_refused(jobs):
    ran = jobs("add", "chat", "--config", "missing.toml")
    assert ran.exit_code == 2
    assert "cannot be read" in ran.stderr


def test_without_a_server_the_command_says_so(jobs, free_tcp_port):
    ran = jobs("show", "1", "--redis-url", f"redis://127.0.0.1:{free_tcp_port}")
    assert ran.exit_code == 1
    assert "could not be reached" in ran.stderr


def test_show_prints_where_a_job_stands(jobs, valkey):
    jobs("add", "chat", "--model", "m")
    failed = {"failedReason": "no luck", "stacktrace": '["Traceback: here"]', "atm": 1, "pb": "w1"}
    valkey.client.hset("bull:llm-chat:1", mapping={**failed, "progress": '{"tokens": 3}'})
    valkey.client.zadd("bull:llm-chat:failed", {"1": 1})
    ran = jobs("show", "1", "--trace")
    for words in (
        "1 (chat) on llm-chat",
        "failed",
        "1 of 1",
        "no luck",
        "w1",
        '"tokens": 3',
        "Traceback: here",
    ):
        assert words in ran.stdout
    assert "Traceback" not in jobs("show", "1").stdout
    whole = json.loads(jobs("show", "1", "--json").stdout)
    assert (whole["state"], whole["data"]) == ("failed", {"model": "m"})
    assert whole["failed_reason"] == "no luck"


def test_show_of_a_job_that_is_not_there_fails(jobs):
    ran = jobs("show", "7", "--queue", "echo")
    assert ran.exit_code == 1
    assert "job 7 on echo does not exist" in ran.stderr


async def test_add_waits_for_the_words_of_the_answer(start_worker, fake_engine, jobs_process):
    await start_worker(chat(fake_engine))
    ran = await jobs_process("add", "chat", "--model", "llama3", "--prompt", "one two", "--wait")
    assert (ran.returncode, ran.stdout) == (0, b"one two\n")
    assert ran.stderr.startswith(b"job 1 on llm-chat\n")


async def test_add_prints_the_whole_result_as_json(start_worker, fake_engine, jobs_process):
    await start_worker(chat(fake_engine))
    ran = await jobs_process(
        "add", "chat", "--model", "llama3", "--prompt", "hi", "--wait", "--json"
    )
    envelope = json.loads(ran.stdout)
    assert envelope["answer"]["message"]["content"] == "hi"
    assert envelope["model"]["asked"] == "llama3"


async def test_a_failed_job_ends_the_command_with_its_reason(
    start_worker, fake_engine, jobs_process
):
    await start_worker(chat(fake_engine))
    ran = await jobs_process("add", "chat", "--model", "nope", "--prompt", "hi", "--wait")
    assert ran.returncode == 1
    assert b"error: job 1 on llm-chat failed: " in ran.stderr
    assert b"nope" in ran.stderr
    assert ran.stdout == b""


async def test_progress_is_printed_while_waiting(valkey, jobs_process):
    def listening():
        return [one for one in valkey.client.client_list() if "b" in one["flags"]]

    async def tell():
        await eventually_async(listening)
        for fields in (
            {"event": "progress", "data": '{"phase": "loading", "tokens": 0}'},
            {"event": "progress", "data": '{"phase": "generating", "tokens": 5}'},
            {"event": "progress", "data": '{"phase": "generating", "tokens": 5}'},
            {"event": "completed", "returnvalue": '{"said": 1}'},
        ):
            valkey.client.xadd("bull:llm-chat:events", {**fields, "jobId": "1"})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell)
        ran = await jobs_process("add", "chat", "--wait")
    assert ran.stdout == b'{"said": 1}\n'
    lines = ran.stderr.decode().splitlines()
    assert lines == ["job 1 on llm-chat", "loading", "generating, 5 tokens"]


def test_a_wait_that_takes_too_long_ends_with_words(jobs):
    ran = jobs("add", "chat", "--wait", "--timeout", "100ms")
    assert ran.exit_code == 1
    assert "did not end within 100ms" in ran.stderr


def test_the_commands_import_no_plugin_and_no_runtime(valkey):
    code = (
        "import sys; from worker_core.cli import main\n"
        f"main(['jobs', 'add', 'chat', '--redis-url', {valkey.url!r}], standalone_mode=False)\n"
        "loaded = [name for name in sys.modules if name.startswith('worker_core_')]\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr

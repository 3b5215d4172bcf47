"""`worker-core batch` against a real server, without a worker: files, refusals, what waits."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys

import pytest
from click.testing import CliRunner

from worker_core.batches import BatchItem, BatchKeys, completed_outcome, failed_outcome
from worker_core.cli.batch import command, submit
from worker_core.testing.polling import eventually

COMMAND = [sys.executable, "-m", "worker_core", "batch"]


def line(custom_id, url="/v1/chat/completions", **members):
    body = {"model": "llama3", "messages": [{"role": "user", "content": "hi"}], **members}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


@pytest.fixture
def batch(valkey, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", valkey.url)

    def run(*arguments):
        return CliRunner().invoke(command, arguments)

    return run


@pytest.fixture
def file(tmp_path):
    def write(*lines):
        path = tmp_path / "in.jsonl"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    return write


@pytest.fixture
def submitted(batch, file):
    """Submit three requests, and return the batch's id."""
    ran = batch("submit", file(line("a"), line("b"), line("c")), "--metadata", "of=tests")
    assert ran.exit_code == 0, ran.output
    return ran.stdout.strip()


@pytest.fixture
def record(valkey, submitted):
    """Record outcomes as a worker would: `a` answered, `b` failed."""
    keys = BatchKeys("bull", "llm-batch", submitted)
    answer = {"model": "llama3", "message": {"role": "assistant", "content": "hello"}}
    envelope = {"type": "chat", "answer": answer, "worker": "w", "timings": {}}
    a, b = BatchItem("a", "chat", {}), BatchItem("b", "chat", {})
    outcomes = {
        0: completed_outcome(a, json.dumps(envelope).encode()),
        1: failed_outcome(b, "bad_input", "no luck"),
    }
    valkey.client.hset(keys.items, mapping=outcomes)
    valkey.client.hset(keys.state, mapping={"total": 3, "completed": 1, "failed": 1})
    return keys


def custom_ids(path):
    return [json.loads(text)["custom_id"] for text in path.read_text().splitlines()]


def test_a_bad_file_names_every_fault_and_stores_nothing(batch, file, valkey):
    lines = [line(f"r{number}") for number in range(1, 11)]
    lines[2] = '{"custom_id": "r3",'
    lines[6] = line("r7", url="/v1/images/generations")
    lines[8] = line("r2")
    ran = batch("submit", file(*lines))
    assert ran.exit_code == 2
    assert ran.stdout == ""
    third, seventh, ninth, last = ran.stderr.splitlines()
    assert "in.jsonl: line 3: not JSON" in third
    assert "in.jsonl: line 7: url: " in seventh
    assert "in.jsonl: line 9: custom_id: 'r2' is that of line 2 too" in ninth
    assert last == "nothing was submitted"
    assert valkey.client.dbsize() == 0


def test_a_bad_file_as_an_object(batch, file):
    ran = batch("submit", file(line("a"), line("b", n=2)), "--json")
    assert ran.exit_code == 2
    whole = json.loads(ran.stdout)
    assert (whole["id"], whole["status"]) == (None, "failed")
    [error] = whole["errors"]["data"]
    assert (error["line"], error["param"]) == (2, "body.n")


def test_a_file_that_is_not_there_is_a_usage_error(batch):
    ran = batch("submit", "no.jsonl")
    assert ran.exit_code == 2
    assert "no.jsonl" in ran.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--metadata", "x"], "KEY=VALUE"),
        (["--metadata", f"{'k' * 65}=v"], "at most 64"),
        (["--metadata", f"k={'v' * 513}"], "512"),
        ([word for number in range(17) for word in ("--metadata", f"k{number}=v")], "at most 16"),
        (["--completion-window", "0s"], "longer than 0s"),
        (["--queue", "a:b"], "queue"),
    ],
)
def test_what_cannot_be_meant_is_refused(batch, file, valkey, options, words):
    ran = batch("submit", file(line("a")), *options)
    assert ran.exit_code in {1, 2}
    assert words in ran.stderr
    assert valkey.client.dbsize() == 0


def test_a_file_becomes_a_batch(submitted, valkey):
    job = valkey.client.hgetall(f"bull:llm-batch:{submitted}")
    data = json.loads(job[b"data"])
    assert [item["custom_id"] for item in data["requests"]] == ["a", "b", "c"]
    assert data["requests"][0] == {
        "custom_id": "a",
        "type": "chat",
        "body": {"model": "llama3", "messages": [{"role": "user", "content": "hi"}]},
    }
    assert (data["timeout"], data["metadata"]) == (86_400_000, {"of": "tests"})


def test_a_large_file_is_stored_beside_its_job(batch, file, valkey):
    ran = batch("submit", file(*(line(f"r{number}") for number in range(1000))), "--json")
    assert ran.exit_code == 0, ran.output
    whole = json.loads(ran.stdout)
    assert whole["status"] == "validating"
    assert whole["request_counts"]["total"] == 1000
    assert (whole["model"], whole["completion_window"]) == ("llama3", "24h")
    requests = f"bull:llm-batch:{whole['id']}:requests"
    assert valkey.client.llen(requests) == 1000
    assert json.loads(valkey.client.lindex(requests, 999))["custom_id"] == "r999"


def test_a_file_that_changes_while_it_is_submitted_is_refused(batch, file, valkey, monkeypatch):
    path = file(*(line(f"r{number}") for number in range(1000)))
    inspect = submit.inspect

    def inspect_and_change(*arguments, **options):
        contents = inspect(*arguments, **options)
        with open(path, "a") as more:  # noqa: PTH123  # as another program would
            more.write("{\n")
        return contents

    monkeypatch.setattr(submit, "inspect", inspect_and_change)
    ran = batch("submit", path)
    assert ran.exit_code == 2
    assert "changed" in ran.stderr
    assert valkey.client.dbsize() == 0


def test_an_interrupted_submission_leaves_nothing(valkey, file, tmp_path):
    path = file(*(line(f"r{number}", user="u" * 2000) for number in range(20_000)))
    with subprocess.Popen(
        [*COMMAND, "submit", path, "--redis-url", valkey.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    ) as process:
        eventually(lambda: valkey.client.keys("*:requests"), within=30, what="requests are stored")
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    assert (process.returncode, printed) == (1, b"")
    assert valkey.client.dbsize() == 0


def test_requests_come_from_standard_input(valkey, tmp_path):
    # A pipe, which can be read only once.
    ran = subprocess.run(
        [*COMMAND, "submit", "-", "--redis-url", valkey.url],
        input=f"{line('a')}\n{line('b')}\n".encode(),
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    data = json.loads(valkey.client.hget(f"bull:llm-batch:{ran.stdout.decode().strip()}", "data"))
    assert len(data["requests"]) == 2


def test_status_for_people_and_as_an_object(batch, submitted):
    ran = batch("status", submitted)
    assert ran.exit_code == 0, ran.output
    for words in (
        f"{submitted} on llm-batch",
        "validating",
        "0 completed, 0 failed, 3 in all",
        "in.jsonl",
        "llama3",
        '{"of": "tests"}',
    ):
        assert words in ran.stdout
    whole = json.loads(batch("status", submitted, "--json").stdout)
    assert (whole["id"], whole["endpoint"]) == (submitted, "/v1/chat/completions")
    assert whole["metadata"] == {"of": "tests"}
    assert whole["expires_at"] - whole["created_at"] == 86_400


@pytest.mark.parametrize("name", ["status", "cancel", "fetch"])
def test_a_batch_that_is_not_there(batch, tmp_path, name):
    ran = batch(name, "batch_no")
    assert ran.exit_code == 1
    assert "batch_no on llm-batch does not exist" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_cancelling_keeps_what_is_done(batch, submitted, record, tmp_path):
    ran = batch("cancel", submitted)
    assert ran.exit_code == 0, ran.output
    assert ran.stdout == f"{submitted} is cancelled: 2 of 3 requests are done and kept\n"
    whole = json.loads(batch("cancel", submitted, "--json").stdout)
    assert whole["status"] == "cancelled"
    assert whole["cancelled_at"] is not None

    ran = batch("fetch", submitted)
    assert ran.exit_code == 0, ran.output
    assert f"{submitted}: 1 answered, 2 failed" in ran.stderr
    output, errors = (tmp_path / whole[name] for name in ("output_file_id", "error_file_id"))
    assert custom_ids(output) == ["a"]
    failed, cancelled = map(json.loads, errors.read_text().splitlines())
    assert failed["response"]["body"]["error"]["message"] == "no luck"
    assert (cancelled["custom_id"], cancelled["error"]["code"]) == ("c", "batch_cancelled")


def test_a_batch_that_has_not_ended_is_fetched_only_where_that_is_meant(
    batch, submitted, record, tmp_path
):
    ran = batch("fetch", submitted)
    assert ran.exit_code == 1
    assert f"{submitted} is validating: 2 of 3 requests are done; --partial" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    assert batch("fetch", submitted, "--partial").exit_code == 0
    assert custom_ids(tmp_path / f"{submitted}_output.jsonl") == ["a"]
    assert custom_ids(tmp_path / f"{submitted}_error.jsonl") == ["b"]


def test_answers_and_failures_go_to_standard_output_where_that_is_named(batch, submitted, record):
    def told(*options):
        ran = batch("fetch", submitted, "--partial", *options)
        assert ran.exit_code == 0, ran.output
        return [json.loads(text)["custom_id"] for text in ran.stdout.splitlines()]

    assert told("--output", "-") == ["a"]
    assert told("--output", "-", "--errors", "-") == ["a", "b"]


def test_a_file_is_made_where_there_is_nothing_for_it_only_if_it_is_named(
    batch, submitted, tmp_path
):
    assert batch("fetch", submitted, "--partial", "--output", "out").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out"]
    assert (tmp_path / "out").read_bytes() == b""


def test_what_was_there_stays_until_all_is_fetched(batch, submitted, record, valkey, tmp_path):
    (tmp_path / "out").write_text("of yesterday")
    # The third request stood there; the two before it have outcomes.
    valkey.client.delete(f"bull:llm-batch:{submitted}")
    ran = batch("fetch", submitted, "--output", "out")
    assert ran.exit_code == 1
    assert "not kept any more" in ran.stderr
    assert (tmp_path / "out").read_text() == "of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out"]


def test_a_link_is_followed_and_what_is_no_file_is_written_to(
    batch, submitted, record, tmp_path, monkeypatch
):
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to("real")
    assert batch("fetch", submitted, "--partial", "--output", "link").exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert custom_ids(tmp_path / "real") == ["a"]

    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", "pipe"], cwd=tmp_path, stdout=subprocess.PIPE) as reader:
        assert batch("fetch", submitted, "--partial", "--output", "pipe").exit_code == 0
        read, _ = reader.communicate(timeout=10)
    assert json.loads(read)["custom_id"] == "a"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_file_that_cannot_be_written_is_told(batch, submitted, record):
    ran = batch("fetch", submitted, "--partial", "--output", "no/such/folder/out")
    assert ran.exit_code == 1
    assert "cannot be written" in ran.stderr


def test_a_reader_that_has_had_enough_ends_the_command(valkey, submitted, record, tmp_path):
    reads, writes = os.pipe()
    os.close(reads)
    ran = subprocess.run(
        [*COMMAND, "fetch", submitted, "--partial", "--output", "-", "--redis-url", valkey.url],
        stdout=writes,
        stderr=subprocess.PIPE,
        check=False,
        cwd=tmp_path,
    )
    os.close(writes)
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_two_files_have_two_names(batch, submitted):
    ran = batch("fetch", submitted, "--output", "x", "--errors", "x")
    assert ran.exit_code == 2
    assert "two files" in ran.stderr


def test_a_wait_that_takes_too_long_leaves_the_id(batch, file):
    ran = batch("submit", file(line("a")), "--wait", "--timeout", "100ms")
    assert ran.exit_code == 1
    assert "did not end within 100ms; it goes on" in ran.stderr
    assert ran.stdout.startswith("batch_")


def test_the_bars_are_drawn_on_a_terminal(valkey, tmp_path, file):
    import pty  # noqa: PLC0415  # there is none on some systems

    path = file(*(line(f"r{number}") for number in range(1000)))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "submit", path, "--redis-url", valkey.url],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        cwd=tmp_path,
    ) as process:
        os.close(theirs)
        drawn = b""

        def read_on():
            nonlocal drawn
            try:
                drawn += os.read(ours, 65_536)
            except OSError:  # how a terminal ends
                return True
            return False

        eventually(read_on, what="the command's end")
        printed, _ = process.communicate(timeout=30)
    os.close(ours)
    assert printed.startswith(b"batch_")
    assert b"checking" in drawn
    assert b"submitting" in drawn


def test_the_commands_import_no_plugin(valkey, file):
    code = (
        "import sys; from worker_core.cli import main\n"
        f"main(['batch', 'submit', {file(line('a'))!r}, '--redis-url', {valkey.url!r}],"
        " standalone_mode=False)\n"
        "loaded = [name for name in sys.modules if name.startswith('worker_core_')]\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr

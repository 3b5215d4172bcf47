"""`worker-core config`: what an operator sees of the settings, and of what is wrong with them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from worker_core.cli import main

if TYPE_CHECKING:
    from click.testing import Result

DATA = Path(__file__).parents[1] / "data"
CONF = Path(__file__).parents[2] / "conf"
BAD, GOOD = DATA / "bad.toml", DATA / "good.toml"

FAULTS_OF_BAD = {
    "resluts": r"unknown table; did you mean 'results'\?",
    "worker.plugins": "plugin 'not-installed': not installed; installed are: .*chat",
    "worker.concurrency": "expected a whole number, found text",
    "worker.garce": r"unknown key; did you mean 'grace'\?",
    "worker.max_wait": "expected a duration such as '300s'.*found 'ten minutes'",
    "redis.url": "scheme 'http' is not known",
    "redis.reply_timeout": "expected a duration such as '300s', found a number",
    "queue.lock_renew_time": "must be at most two thirds of lock_duration",
    "log.level": "expected one of 'debug', 'info', 'warning', 'error', found 'chatty'",
    "plugins.chat.timeout": "expected a duration such as '300s'.*found '-5s'",
    "plugins.chat.max_prompt_chars": "must be >= 1: 0",
    "plugins.chat.queues[0].concurency": r"unknown key; did you mean 'concurrency'\?",
    "plugins.chat.queues[1].concurrency": "must be >= 1: 0",
    "plugins.chat.queues[2].name": "missing",
    "plugins.chat.queues[3].name": "must not be empty or hold a colon: 'with:colon'",
    "plugins.ollama.base_url": "must be a URL such as http://127.0.0.1:11434",
    "plugins.ollama.max_retries": "must be >= 0: -1",
    "plugins.ollama.runner.num_ctx": "expected a whole number.*found text",
    "plugins.ollama.runner.numgpu": r"unknown key; did you mean 'num_gpu'\?",
}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variables and no .env but the test's own."""
    for name in list(os.environ):
        if name.startswith(("WORKER_", "OLLAMA_", "REDIS_", "MAX_", "ALLOWED_", "METRICS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["config", *map(str, arguments)])


def shown(*arguments: object) -> dict[str, Any]:
    result = run("show", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return {row["path"]: (row["value"], row["source"]) for row in json.loads(result.stdout)}


def fault_lines(result: Result) -> dict[str, str]:
    """The faults that were listed: what is said, by the path."""
    found = re.findall(r"^error: ([\w.\[\]]+): (.*)$", result.stderr, re.MULTILINE)
    return dict(found)


# --- check ---


def test_every_fault_of_a_bad_file_is_listed_with_path_and_source() -> None:
    result = run("check", BAD)
    assert result.exit_code == 2
    found = fault_lines(result)
    assert found.keys() == FAULTS_OF_BAD.keys()
    for path, said in FAULTS_OF_BAD.items():
        assert re.match(said, found[path]), (path, found[path])
        # The fault lies in what is missing, or in the file.
        assert found[path].endswith(f"(from {BAD})"), (path, found[path])
    assert result.stdout == ""


def test_the_number_of_faults_is_told() -> None:
    result = run("check", BAD)
    assert f"{len(FAULTS_OF_BAD)} faults; nothing was started" in result.stderr


def test_a_good_file_is_told_to_be_good_with_its_queues() -> None:
    result = run("check", GOOD)
    assert result.exit_code == 0
    assert result.stdout == f"{GOOD}: good; consumes llm-chat, llm-chat-express\n"
    assert "notice: [plugins.embeddings] is not read: the plugin is not enabled" in result.stderr


@pytest.mark.parametrize("file", sorted(CONF.glob("*.toml")), ids=lambda file: file.name)
def test_the_configurations_that_we_ship_are_good(file: Path) -> None:
    result = run("check", file)
    assert result.exit_code == 0, result.output


def test_a_file_that_is_not_there_is_refused() -> None:
    result = run("check", "nowhere.toml")
    assert result.exit_code == 2
    assert "nowhere.toml" in result.stderr


def test_a_file_that_is_no_toml_is_refused_with_the_place(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("[worker]\nplugins = [\n")
    result = run("check", file)
    assert result.exit_code == 2
    assert "not TOML" in result.stderr
    assert "broken.toml" in result.stderr


def test_the_environment_counts_in_a_check_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", "many")
    result = run("check", GOOD)
    assert result.exit_code == 2
    assert fault_lines(result) == {
        "worker.concurrency": (
            "expected a whole number, found 'many' (from environment WORKER_CONCURRENCY)"
        )
    }


def test_a_plugin_that_breaks_its_contract_is_refused_by_check(tmp_path: Path) -> None:
    file = tmp_path / "twice.toml"
    file.write_text(
        '[worker]\nplugins = ["chat", "echo"]\n[plugins.chat]\nqueues = [{ name = "echo" }]\n'
    )
    result = run("check", file)
    assert result.exit_code == 2
    assert "error: plugin 'echo': worker-core-echo" in result.stderr
    assert "the queue 'echo' is chat's already" in result.stderr


def test_a_real_process_lists_the_faults_and_exits_with_2() -> None:
    command = [sys.executable, "-m", "worker_core", "config", "check", BAD]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == len(FAULTS_OF_BAD)
    assert "Traceback" not in done.stderr


# --- show ---


def test_every_setting_is_shown_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("WORKER_ID=from-dotenv\nOLLAMA_TIMEOUT=90000\n")
    monkeypatch.setenv("WORKER_ID", "from-environment")
    monkeypatch.setenv("WORKER_TIMEOUT", "1500")
    rows = shown("--config", GOOD, "--redis-url", "redis://flag:6379")
    assert rows["worker.id"] == ("from-environment", "environment WORKER_ID")
    assert rows["plugins.ollama.timeout"] == ("1m30s", ".env OLLAMA_TIMEOUT")
    assert rows["plugins.chat.timeout"] == ("1s500ms", "environment WORKER_TIMEOUT")
    assert rows["redis.url"] == ("redis://flag:6379", "flag")
    assert rows["worker.grace"] == ("45s", str(GOOD))
    assert rows["redis.reply_timeout"] == ("10s", "default")
    assert rows["plugins.chat.queues"][0] == [
        {"name": "llm-chat", "concurrency": 6, "express": False},
        {"name": "llm-chat-express", "express": True},
    ]
    assert rows["plugins.ollama.runner_by_model"][0] == {"qwen3:8b": {"num_ctx": 16384}}


def test_plugins_and_engine_may_be_given_as_flags() -> None:
    rows = shown("--config", GOOD, "--plugins", "echo, chat", "--engine", "none")
    assert rows["worker.plugins"] == (["echo", "chat"], "flag")
    assert rows["worker.engine"] == ("none", "flag")
    assert not any(path.startswith("plugins.ollama") for path in rows)


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "from-the-environment")
    for arguments in (["--json"], []):
        result = run("show", "--config", GOOD, *arguments)
        assert result.exit_code == 0
        for secret in ("from-the-url", "from-the-environment", "key-from-the-file"):
            assert secret not in result.output
    rows = shown("--config", GOOD)
    assert rows["redis.password"] == ("********", "environment REDIS_PASSWORD")
    assert rows["plugins.ollama.api_key"] == ("********", str(GOOD))
    assert rows["redis.url"][0] == "redis://worker:********@127.0.0.1:6379/2"


def test_the_table_for_people_shows_values_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # Square brackets are markup to the library that draws the table.
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("REDIS_URL", "redis://[fe80::1]:6379")
    monkeypatch.setenv("WORKER_ID", "[bold]me[/nothing]")
    result = run("show", "--engine", "none")
    assert result.exit_code == 0
    assert "redis://[fe80::1]:6379" in result.stdout
    assert "[bold]me[/nothing]" in result.stdout


def test_nothing_is_cut_where_the_table_goes_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / f"{'long-' * 30}.toml"
    file.write_text(GOOD.read_text())
    (tmp_path / ".env").write_text("MAX_CONCURRENT_REQUESTS=8\n")
    command = [sys.executable, "-m", "worker_core", "config", "show", "--config", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    assert [
        "plugins.ollama.max_concurrent_requests",
        "8",
        ".env MAX_CONCURRENT_REQUESTS",
    ] in lines
    assert [
        "plugins.ollama.runner_by_model",
        '{"qwen3:8b": {"num_ctx": 16384}}',
        str(file),
    ] in lines


def test_notices_are_shown_apart_from_the_settings() -> None:
    result = run("show", "--config", GOOD)
    assert "notice: [plugins.embeddings]" in result.stderr
    assert "notice" not in result.stdout


def test_a_configuration_with_faults_is_refused_by_show() -> None:
    result = run("show", "--config", BAD)
    assert result.exit_code == 2
    assert len(fault_lines(result)) == len(FAULTS_OF_BAD)

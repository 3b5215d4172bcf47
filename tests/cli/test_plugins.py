"""`worker-core plugins list`: what is installed, and what is enabled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from tests.plugins.support import Site
from worker_core.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No .env but the test's own; lines long enough for a test to read."""
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder, monkeypatch)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["plugins", "list", *map(str, arguments)])


def listed(*arguments: object) -> list[dict[str, Any]]:
    result = run("--json", *arguments)
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def row(name: str, *arguments: object) -> dict[str, Any]:
    (found,) = [row for row in listed(*arguments) if row["name"] == name]
    return found


def test_what_is_installed_is_listed_with_its_distribution_and_version(site: Site) -> None:
    site.install("mine", "raise SystemExit('imported')", distribution="my-dist", version="4.5")
    assert row("mine") == {
        "name": "mine",
        "distribution": "my-dist",
        "version": "4.5",
        "enabled": False,
        "hooks": [],
        "fault": None,
    }


def test_an_enabled_plugin_is_listed_with_its_hooks() -> None:
    found = row("chat", "--plugins", "chat")
    assert found["enabled"]
    assert found["hooks"] == ["worker_core_job_types"]
    assert found["distribution"] == "worker-core-chat"


def test_the_engine_of_enabled_plugins_is_enabled_with_them() -> None:
    assert row("ollama", "--plugins", "chat")["enabled"]
    assert not row("ollama", "--plugins", "chat", "--engine", "none")["enabled"]
    assert not row("ollama")["enabled"]


def test_an_enabled_plugin_that_is_not_installed_is_listed_as_such() -> None:
    found = row("missing", "--plugins", "chat,missing")
    assert found == {
        "name": "missing",
        "distribution": "",
        "version": "",
        "enabled": True,
        "hooks": [],
        "fault": "not installed",
    }


def test_an_enabled_plugin_that_cannot_be_imported_is_listed_with_the_cause(site: Site) -> None:
    site.install("bad", "raise RuntimeError('at [import]')", distribution="bad-dist")
    assert "RuntimeError('at [import]')" in row("bad", "--plugins", "bad")["fault"]
    result = run("--plugins", "bad")
    assert result.exit_code == 0
    assert "RuntimeError('at [import]')" in result.stdout


def test_two_distributions_with_one_plugin_are_both_listed(site: Site) -> None:
    site.install("twin", "class P: pass", distribution="first-dist")
    site.install("twin", "class P: pass", distribution="second-dist")
    found = [row for row in listed("--plugins", "twin") if row["name"] == "twin"]
    assert {row["distribution"] for row in found} == {"first-dist", "second-dist"}
    assert all("uninstall all but one" in row["fault"] for row in found)


def test_a_file_says_what_is_enabled_also_where_it_has_faults(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('[worker]\nplugins = ["echo"]\nconcurrency = "x"\n')
    assert row("echo", "--config", file)["enabled"]
    assert not row("chat", "--config", file)["enabled"]


def test_names_may_be_given_with_blanks_and_empty_places() -> None:
    assert row("echo", "--plugins", "chat, echo,")["enabled"]
    assert not [found for found in listed("--plugins", "chat,") if not found["name"]]


def test_the_table_for_people_names_everything() -> None:
    result = run("--plugins", "chat")
    (line,) = [line for line in result.stdout.splitlines() if "worker-core-chat" in line]
    assert [cell.strip() for cell in line.split("│") if cell.strip()] == [
        "chat",
        "worker-core-chat",
        "0.1.0",
        "yes",
        "worker_core_job_types",
    ]

"""`worker-core` itself: help without a configuration, and commands of plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tests.plugins.support import Site
from worker_core.cli import main
from worker_core.cli.root import _COMMANDS

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

GREET = """
import click

@click.command()
@click.argument("name")
def P(name):
    "Greet somebody."
    click.echo(f"hello {name}")
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder, monkeypatch)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_bare_worker_core_prints_help(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 0
    for name in ("run", *_COMMANDS):
        assert f"\n  {name} " in result.stdout


def test_the_version_is_told() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("worker-core, version ")


@pytest.mark.parametrize("name", ["run", *_COMMANDS])
def test_every_command_has_help(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert f"main {name}" in result.stdout


def test_an_unknown_command_is_refused() -> None:
    result = run("rnu")
    assert result.exit_code == 2
    assert "rnu" in result.stderr


def test_an_unknown_plugin_is_refused_before_anything_starts() -> None:
    result = run("--plugins", "nosuch", "--engine", "none")
    assert result.exit_code == 2
    assert "plugin 'nosuch': not installed" in result.stderr


def test_options_before_a_command_are_refused_and_not_dropped() -> None:
    result = run("--plugins", "chat", "config", "show")
    assert result.exit_code == 2
    assert "give these options behind the command: worker-core config ..." in result.stderr


def test_a_command_of_a_plugin_is_listed_and_runs(site: Site) -> None:
    site.install("greet", GREET, group="worker_core.commands")
    listed = run("--help")
    assert "\n  greet " in listed.stdout
    result = run("greet", "you")
    assert (result.exit_code, result.stdout) == (0, "hello you\n")


def test_help_and_other_commands_do_not_import_a_plugins_command(site: Site) -> None:
    site.install("trap", "raise RuntimeError('imported')", group="worker_core.commands")
    assert run("--help").exit_code == 0
    assert run("config", "--help").exit_code == 0


def test_a_plugins_command_that_cannot_be_imported_says_whose_it_is(site: Site) -> None:
    site.install(
        "trap",
        "raise RuntimeError('oops')",
        distribution="trap-dist",
        group="worker_core.commands",
    )
    result = run("trap")
    assert result.exit_code != 0
    assert "trap-dist 1.2.3" in result.output
    assert "RuntimeError('oops')" in result.output


def test_a_plugins_command_that_is_none_is_refused(site: Site) -> None:
    site.install("odd", "P = 3", distribution="odd-dist", group="worker_core.commands")
    assert "odd-dist 1.2.3 is no click command" in run("odd").output


def test_help_needs_no_valid_configuration(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WORKER_CONCURRENCY=many\n")
    command = [sys.executable, "-m", "worker_core", "jobs", "--help"]
    environment = {**os.environ, "REDIS_URL": "nonsense"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

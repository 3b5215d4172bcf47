"""docs/plugins.md is true: its package is built, installed and runs, and it names every hook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from worker_core import hookspecs
from worker_core.client import SyncClient
from worker_core.testing.polling import eventually

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugins.md"
_BLOCK = re.compile(
    r"^```\w+ (?P<word>\w+)=(?P<path>\S+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


def blocks(word: str = "file") -> dict[str, str]:
    """Return the page's code blocks that name a file of the package, or of its `test`."""
    found = (match for match in _BLOCK.finditer(PAGE.read_text()) if match["word"] == word)
    return {match["path"]: match["text"] for match in found}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Build the page's package and install it into a folder of its own."""
    folder = tmp_path_factory.mktemp("tutorial")
    for path, text in blocks().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, folder / "worker-core-echo"], check=True)
    return site


def test_the_tutorial_is_short():
    lines = [line for text in blocks().values() for line in text.splitlines() if line.strip()]
    assert len(lines) < 40


def test_the_example_is_the_tutorials_package():
    for path, text in blocks().items():
        assert (ROOT / "examples" / path).read_text() == text


def test_the_tutorials_package_is_found_and_runs_a_job(installed, valkey, start_process):
    worker = start_process(
        *("--plugins", "echo", "--engine", "none"), environment={"PYTHONPATH": str(installed)}
    )
    worker.wait_ready()
    code = "import worker_core_echo; print(worker_core_echo.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.startswith(str(installed))
    with SyncClient(valkey.url) as client:
        job = client.submit("echo", {"text": "hi", "times": 2}, queue="echo")
        eventually(lambda: valkey.client.zscore("bull:echo:completed", job.id))
    envelope = json.loads(valkey.client.hget(f"bull:echo:{job.id}", "returnvalue"))
    assert envelope["answer"] == "hi hi"


def test_the_pages_test_passes_as_it_is_written(installed, tmp_path):
    assert set(blocks("test")) == {"pyproject.toml", "test_echo.py"}
    for path, text in blocks("test").items():
        (tmp_path / path).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_every_hook_is_on_the_page_and_no_other():
    marked = {
        name
        for name, member in vars(hookspecs).items()
        if hasattr(member, f"{hookspecs.PROJECT}_spec")
    }
    rows = re.findall(r"^\| `(worker_core_\w+)\(", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(marked)


def test_every_hook_says_when_it_fires():
    for name, member in vars(hookspecs).items():
        if hasattr(member, f"{hookspecs.PROJECT}_spec"):
            assert member.__doc__, name

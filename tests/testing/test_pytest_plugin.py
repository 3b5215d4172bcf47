"""The fixtures are loaded where `worker-core[testing]` is, and are in nobody's way elsewhere."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RUN = """
import sys
from functools import partial
from importlib.machinery import PathFinder

missing = sys.argv.pop(1).split(",")

def find_spec(find, name, *more):
    return None if name in missing else find(name, *more)

PathFinder.find_spec = partial(find_spec, PathFinder.find_spec)
import pytest

sys.exit(pytest.main(sys.argv[1:]))
"""


def run_pytest(folder: Path, test: str, missing: Sequence[str]) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (folder / "test_application.py").write_text(test)
    # pytest-trio's own plugin is not installed where pytest-trio is not.
    arguments = [",".join(missing), "-p", "no:trio", "-p", "no:cacheprovider", "-q"]
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("missing", [["pytest_trio"], ["h11"], ["h11", "pytest_trio"]])
def test_an_application_without_the_extras_runs_its_own_tests(
    tmp_path: Path, missing: list[str]
) -> None:
    done = run_pytest(tmp_path, "def test_it():\n    import worker_core\n", missing)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "warning" not in done.stdout


def test_there_are_no_fixtures_then(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "def test_it(valkey):\n    pass\n", ["pytest_trio"])
    assert done.returncode == 1
    assert "fixture 'valkey' not found" in done.stdout


def test_there_are_fixtures_where_the_extras_are(tmp_path: Path) -> None:
    test = "def test_it(valkey):\n    assert valkey.client.ping()\n"
    done = run_pytest(tmp_path, test, ["nothing_that_is_needed"])
    assert done.returncode == 0, done.stdout + done.stderr

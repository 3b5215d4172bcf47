"""The Lua scripts are read as data files."""

from __future__ import annotations

import subprocess
import sys

import pytest

from worker_core._bullmq.scripts import load_script


def test_reading_the_scripts_does_not_import_their_package() -> None:
    code = (
        "import sys\n"
        "from worker_core._bullmq.scripts import load_scripts\n"
        "scripts = load_scripts()\n"
        "assert all(b'redis' in script.source for script in scripts), scripts\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'bullmq', 'redis'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_script_that_is_not_there_says_what_to_install() -> None:
    with pytest.raises(FileNotFoundError, match=r"'noSuchScript'.*constraints\.txt"):
        load_script("noSuchScript")


def test_a_script_is_read_once() -> None:
    assert load_script("moveToActive") is load_script("moveToActive")

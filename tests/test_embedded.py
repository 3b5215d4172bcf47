"""The embedded server's folder: who may end what holds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from worker_core.embedded import EmbeddedServerError, EmbeddedValkey
from worker_core.testing.polling import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

OWNER = """
import sys, time
from pathlib import Path
from worker_core.embedded import EmbeddedValkey

server = EmbeddedValkey(Path(sys.argv[1]))
server.start()
print(server.pid, server.port, flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Another process with a server on `tmp_path`, and that server."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        server = psutil.Process(int(owner.stdout.readline().split()[0]))
        yield owner, server
        owner.kill()
        if server.is_running():
            server.kill()


def test_a_server_whose_process_lives_is_left_alone(tmp_path, other):
    owner, server = other
    with pytest.raises(EmbeddedServerError) as caught:
        EmbeddedValkey(tmp_path).start()
    assert f"in use by the process {owner.pid}" in str(caught.value)
    assert "--data" in str(caught.value)
    assert server.is_running()
    assert server.status() != psutil.STATUS_ZOMBIE


def test_the_same_folder_by_another_name_is_the_same(
    tmp_path, other, monkeypatch, tmp_path_factory
):
    monkeypatch.chdir(tmp_path.parent)
    link = tmp_path_factory.mktemp("links") / "link"
    link.symlink_to(tmp_path)
    for folder in (link, Path(tmp_path.name)):
        with pytest.raises(EmbeddedServerError, match="in use"):
            EmbeddedValkey(folder).start()


def test_an_orphan_is_ended(tmp_path, other):
    owner, server = other
    owner.kill()
    owner.wait()
    with EmbeddedValkey(tmp_path) as mine:
        assert mine.pid != server.pid
        eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_this_processs_own_server_is_left_alone_too(tmp_path):
    with EmbeddedValkey(tmp_path) as first:
        with pytest.raises(EmbeddedServerError, match=f"in use by the process {os.getpid()}"):
            EmbeddedValkey(tmp_path).start()
        assert psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE
    with EmbeddedValkey(tmp_path):
        pass


@pytest.mark.parametrize("owner", ["", " 1", " {ppid}"])
def test_a_valkey_of_somebody_elses_with_the_number_in_a_stale_file_is_left_alone(tmp_path, owner):
    with EmbeddedValkey() as somebody_elses:
        file = tmp_path / "valkey.pid"
        file.write_text(f"{somebody_elses.pid}{owner.format(ppid=os.getpid())}")
        with EmbeddedValkey(tmp_path):
            pass
        assert psutil.Process(somebody_elses.pid).status() != psutil.STATUS_ZOMBIE
        assert not file.exists()


@pytest.mark.parametrize("text", ["", "nonsense", "1 2 3", "-5 1", "99999999 1"])
def test_a_broken_file_is_no_obstacle(tmp_path, text):
    (tmp_path / "valkey.pid").write_text(text)
    with EmbeddedValkey(tmp_path) as server:
        assert psutil.Process(server.pid).is_running()

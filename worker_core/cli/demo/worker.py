"""The demo's worker: a process of its own, as an operator runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import anyio

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from anyio.abc import Process

__all__ = ["WorkerProcess"]

_STOP_SECONDS = 60.0
_KILL_SECONDS = 5.0


class WorkerProcess:
    """A worker process; it is killed if it is still there at the end."""

    def __init__(self, redis_url: str, engine: str, config: Path | None, log: Path) -> None:
        line = [sys.executable, "-m", "worker_core", "run", "--engine", engine]
        line += ["--redis-url", redis_url]
        line += ["--config", str(config)] if config else ["--plugins", "chat,embeddings,batch"]
        self._line = line
        self._log = log
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        # An environment made for another worker must not reach this one, except for the engine's.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WORKER_", "REDIS_"))}
        with self._log.open("wb") as output:
            self._process = await anyio.open_process(
                self._line,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=kept,
                # Ctrl-C is for the demo, which then lets the worker drain.
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        assert process is not None
        if process.returncode is None:
            process.kill()
            with anyio.move_on_after(_KILL_SECONDS, shield=True):
                await process.wait()

    async def cancel_when_it_ends(self, scope: anyio.CancelScope) -> None:
        """Wait for the worker's end, after which nothing more is answered."""
        assert self._process is not None
        await self._process.wait()
        scope.cancel()

    async def drain(self) -> int | None:
        """Stop the worker as an operator does, and return its exit code; `None` if it stays."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(_STOP_SECONDS):
            return await self._process.wait()
        return None

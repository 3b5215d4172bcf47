"""The child process as its parent sees it: started, watched, ended."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import orjson
from anyio.streams.buffered import BufferedByteReceiveStream

from worker_core.errors import EngineError, FailureClass
from worker_core_llamacpp.model_file import model_file

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, Process

    from worker_core_llamacpp.settings import LlamaCppSettings

__all__ = ["Child"]

_FIRST_LINE_BYTES = 64 * 1024
_TERMINATE_SECONDS = 3.0
_KILL_SECONDS = 3.0
_DEATH_SECONDS = 1.0


class Child:
    """At most one server process; started by the first `url`, and anew after it died."""

    def __init__(self, settings: LlamaCppSettings) -> None:
        self._settings = settings
        self._process: Process | None = None
        self._url: str | None = None
        self._starting = anyio.Lock()

    @property
    def is_running(self) -> bool:
        """Whether it is there and has said where it listens."""
        process = self._process
        return self._url is not None and process is not None and process.returncode is None

    async def url(self) -> str:
        """Return where it listens, starting it first if need be; raises `EngineError`.

        Cancelled while it starts it, it ends it.
        """
        async with self._starting:
            if not self.is_running or self._url is None:
                await self.stop()
                self._url = await self._start()
            return self._url

    async def has_died(self) -> bool:
        """Tell whether it has ended by itself, or does so within a second."""
        process = self._process
        if process is None:
            return False
        with anyio.move_on_after(_DEATH_SECONDS):
            await process.wait()
        return process.returncode is not None

    async def stop(self) -> None:
        """End it: asked first, then killed; returns within a few seconds in any case."""
        process, self._process, self._url = self._process, None, None
        if process is None:
            return
        bound = _TERMINATE_SECONDS + _KILL_SECONDS + 1.0
        with anyio.move_on_after(bound, shield=True):
            with suppress(ProcessLookupError):
                process.terminate()
            with anyio.move_on_after(_TERMINATE_SECONDS):
                await process.wait()
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            await process.aclose()

    async def _start(self) -> str:
        settings = self._settings
        try:
            path = await anyio.to_thread.run_sync(model_file, settings.model_path)
        except OSError as error:
            raise EngineError(
                FailureClass.MODEL_MISSING, f"embedded: {settings.model!r}: {error}"
            ) from error
        options = {
            "--model": str(path),
            "--context": str(settings.context),
            "--parallel": str(settings.parallel),
            "--threads": str(settings.threads or os.cpu_count() or 1),
        }
        words = [word for option in options.items() for word in option]
        self._process = await anyio.open_process(
            [sys.executable, "-m", "worker_core_llamacpp.server", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            # Ctrl-C is for the worker, which drains first.
            start_new_session=True,
        )
        try:
            return await self._read_url(self._process.stdout)
        except BaseException:  # a half-started child must not stay, cancelled or not
            await self.stop()  # noqa: ASYNC102  # stop() shields and bounds itself
            raise

    async def _read_url(self, output: ByteReceiveStream | None) -> str:
        told: object = None
        if output is not None:
            with suppress(anyio.EndOfStream, anyio.IncompleteRead, orjson.JSONDecodeError):
                lines = BufferedByteReceiveStream(output)
                told = orjson.loads(await lines.receive_until(b"\n", _FIRST_LINE_BYTES))
        match told:
            case {"url": str(url)}:
                return url
            case {"error": str(error)}:
                why = error
            case _:
                why = "the process ended while it loaded"
        raise EngineError(
            FailureClass.CRASHED, f"embedded: cannot load {self._settings.model!r}: {why}"
        )

"""A gate between one worker and the server: every call passes and is counted; from a chosen call on
no reply does. A worker killed then has had its call executed and never learned of it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute

from worker_core._bullmq.scripts import load_scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream, SocketStream, TaskStatus

__all__ = ["Gate", "run_gate"]

_SCRIPTS = {script.sha1.encode(): script.name for script in load_scripts()}
_EVALSHA = re.compile(rb"\$7\r\nEVALSHA\r\n\$40\r\n([0-9a-f]{40})\r\n")
_LONGEST_HEAD = 64
"""Bytes of a call up to the end of its SHA-1, and some: a chunk may end within."""
_STREAM_ENDS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Gate:
    """Forwards connections to one server; made by `run_gate`."""

    def __init__(self, port: int, target_port: int) -> None:
        self.port = port
        self.calls: Counter[str] = Counter()
        """How often each script was called so far."""
        self.connections = 0
        """How many connections are open now."""
        self.shut = anyio.Event()
        """Set when replies are held from here on."""
        self._target_port = target_port
        self._armed: tuple[str, Callable[[], None]] | None = None
        self._held_script: str | None = None
        self._held: ByteStream | None = None
        self._released = anyio.Event()

    @property
    def url(self) -> str:
        """Where the worker connects."""
        return f"redis://127.0.0.1:{self.port}"

    def arm(self, script: str, on_shut: Callable[[], None]) -> None:
        """Hold every reply from the next call of `script` on, for good.

        `on_shut` is called when no reply passes any more and that call has not been sent yet: what
        the server does from then on, the worker cannot know.
        """
        self._armed = (script, on_shut)

    def hold(self, script: str) -> None:
        """Hold the replies of the connection that calls `script` next, until `release`."""
        self._held_script, self._held, self._released = script, None, anyio.Event()

    def release(self) -> None:
        """Let pass what is held."""
        self._held_script = None
        self._released.set()

    async def handle(self, worker: SocketStream) -> None:
        """Serve one connection that came in."""
        async with worker:
            try:
                server = await anyio.connect_tcp("127.0.0.1", self._target_port)
            except OSError:
                return
            self.connections += 1
            try:
                async with server, anyio.create_task_group() as tasks:
                    tasks.start_soon(self._carry_calls, worker, server, tasks.cancel_scope)
                    tasks.start_soon(self._carry_replies, server, worker, tasks.cancel_scope)
            finally:
                self.connections -= 1

    async def _carry_calls(
        self, worker: ByteStream, server: ByteStream, scope: anyio.CancelScope
    ) -> None:
        seen = b""
        try:
            while True:
                chunk = await worker.receive()
                seen += chunk
                read = 0
                for call in _EVALSHA.finditer(seen):
                    self._note(_SCRIPTS.get(call[1], "other"), worker)
                    read = call.end()
                seen = seen[read:][-_LONGEST_HEAD:]
                await server.send(chunk)
        except _STREAM_ENDS:
            scope.cancel()

    def _note(self, script: str, worker: ByteStream) -> None:
        self.calls[script] += 1
        if self._held_script == script and self._held is None:
            self._held = worker
        if self._armed is not None and self._armed[0] == script and not self.shut.is_set():
            self.shut.set()
            self._armed[1]()

    async def _carry_replies(
        self, server: ByteStream, worker: ByteStream, scope: anyio.CancelScope
    ) -> None:
        try:
            while True:
                chunk = await server.receive()
                if self.shut.is_set():
                    await anyio.sleep_forever()
                if self._held is worker:
                    await self._released.wait()
                await worker.send(chunk)
        except _STREAM_ENDS:
            scope.cancel()


async def run_gate(
    target_port: int, *, task_status: TaskStatus[Gate] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Listen on a free port until cancelled; `started()` hands over the gate."""
    listeners = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listeners:
        gate = Gate(listeners.extra(SocketAttribute.local_port), target_port)
        task_status.started(gate)
        await listeners.serve(gate.handle)

"""An answer in lines of JSON, broken off where a scripted fault says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import orjson

from worker_core.testing.fake_engine.script import FaultAction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker_core.testing.fake_engine.log import LoggedRequest
    from worker_core.testing.fake_engine.script import ScriptedFault
    from worker_core.testing.fake_engine.wire import Responder

__all__ = ["BrokenOff", "LineStream"]

_NDJSON = b"application/x-ndjson"


class BrokenOff(Exception):
    """A fault has ended the answer; nothing more is to be written."""


class LineStream:
    """Writes lines: at once after `flush`, else in few sends, as chunks of their own either way.

    Methods raise `BrokenOff` when the fault has ended the answer, `ConnectionEnded` when it
    has ended the connection or the client has.
    """

    def __init__(
        self, responder: Responder, entry: LoggedRequest, fault: ScriptedFault | None
    ) -> None:
        self._responder = responder
        self._entry = entry
        self._fault = fault
        self._waiting: list[bytes] = []
        self._begun = False

    async def line(self, value: Mapping[str, object]) -> None:
        """Add a line."""
        if self._fault is not None and self._entry.chunks >= self._fault.after_chunks:
            await self._strike(self._fault, value)
        self._waiting.append(orjson.dumps(value) + b"\n")
        self._entry.chunks += 1

    async def flush(self) -> None:
        """Send what was added."""
        lines, self._waiting = self._waiting, []
        if not self._begun:
            self._begun = True
            await self._responder.begin_lines(lines, _NDJSON)
        elif lines:
            await self._responder.lines(lines)

    async def last(self, value: Mapping[str, object]) -> None:
        """Add the last line and send everything; a fault that has not struck yet strikes first."""
        fault = self._fault
        if fault is not None and fault.action is FaultAction.NOT_DONE:
            value = {**value, "done": False}
        elif fault is not None:
            await self._strike(fault, value)
        self._waiting.append(orjson.dumps(value) + b"\n")
        self._entry.chunks += 1
        await self._end()

    async def _end(self) -> None:
        lines, self._waiting = self._waiting, []
        if self._begun:
            await self._responder.end_lines(lines)
        else:
            self._begun = True
            await self._responder.whole_lines(lines, _NDJSON)

    async def _strike(self, fault: ScriptedFault, value: Mapping[str, object]) -> None:
        match fault.action:
            case FaultAction.CUT:
                await self._end()
                raise BrokenOff
            case FaultAction.ERROR_LINE:
                self._waiting.append(orjson.dumps({"error": fault.words}) + b"\n")
                await self._end()
                raise BrokenOff
            case FaultAction.GARBAGE:
                self._waiting.append(fault.text.encode() + b"\n")
                self._fault = None
            case FaultAction.ABORT:
                whole = orjson.dumps(value)
                self._waiting.append(whole[: len(whole) // 2])
                await self.flush()
                await self._responder.close()
            case FaultAction.RESET:
                await self.flush()
                await self._responder.reset()
            case FaultAction.HANG:
                await self.flush()
                await anyio.sleep_forever()
            case (
                FaultAction.STATUS
                | FaultAction.CLOSE
                | FaultAction.NOT_DONE
                | FaultAction.SLOW
                | FaultAction.ANSWER
            ):
                pass

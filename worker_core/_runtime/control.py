"""The worker's side of `worker_core.control`: what is asked of it on a channel, and its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from worker_core.control import (
    ANSWER_TTL_SECONDS,
    ControlAction,
    ControlAnswer,
    answer_key,
    control_channel,
    read_request,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker_core._runtime.admission import Admission
    from worker_core.circuit import CircuitStanding
    from worker_core.control import ControlRequest
    from worker_core.redis import Link

__all__ = ["Control"]

_log = structlog.get_logger("worker_core.control")


class Control:
    """Answers what the worker is asked. Nothing of it takes time, so it needs no task of its own."""

    def __init__(self, worker_id: str, link: Link, *, prefix: str) -> None:
        self._worker_id = worker_id
        self._link = link
        self._prefix = prefix
        self.admission: Admission | None = None
        """The way to the engine; `None` where the worker has none, or has not come so far."""

    @property
    def channel(self) -> str:
        """Where requests are told."""
        return control_channel(self._prefix)

    def hears(self, *, all_of_them: bool) -> None:
        """Learn whether from now on every request is heard; whoever asks finds that out himself."""

    def hear(self, message: str) -> None:
        """Answer a request; what is none is none of this version's."""
        request = read_request(message.encode())
        if request is None:
            _log.warning("a request on the control channel cannot be read", channel=self.channel)
            return
        answer = ControlAnswer(worker=self._worker_id, circuits=tuple(self._do(request)))
        key = answer_key(self._prefix, request)
        # Posted: whoever asks waits for the answer, and nobody for its being written.
        self._link.post("RPUSH", key, write(answer))
        self._link.post("EXPIRE", key, ANSWER_TTL_SECONDS)

    def _do(self, request: ControlRequest) -> Sequence[CircuitStanding]:
        if self.admission is None:
            return ()
        match request.action:
            case ControlAction.LIST_CIRCUITS:
                return self.admission.circuits()
            case ControlAction.RESET_CIRCUITS:
                closed = self.admission.reset_circuits(request.circuit, host=request.host)
                names = [f"{one.circuit} on {one.host}" for one in closed]
                _log.info("circuits are closed as somebody asks for it", circuits=names)
                return closed

"""The fake engine itself: the table of its paths, and what happens around each request."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs
from anyio.abc import SocketAttribute

from worker_core.testing.fake_engine import library
from worker_core.testing.fake_engine.behaviour import Behaviour
from worker_core.testing.fake_engine.control import PREFIX, control
from worker_core.testing.fake_engine.demands import Refusal, read_body, read_demand
from worker_core.testing.fake_engine.inference import Inference
from worker_core.testing.fake_engine.lines import BrokenOff
from worker_core.testing.fake_engine.log import RequestLog, RequestOutcome
from worker_core.testing.fake_engine.runners import Runners
from worker_core.testing.fake_engine.script import FaultAction, FaultMoment, Script
from worker_core.testing.fake_engine.wire import ConnectionEnded, serve_connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import SocketStream

    from worker_core.testing.fake_engine.demands import Demand
    from worker_core.testing.fake_engine.log import LoggedRequest
    from worker_core.testing.fake_engine.script import ScriptedFault
    from worker_core.testing.fake_engine.wire import Request, Responder

__all__ = ["FakeEngine", "open_fake_engine"]

_INFERENCE = frozenset({"/api/chat", "/api/generate", "/api/embed"})
_METHODS = {
    "/": ("GET", "HEAD"),
    "/api/chat": ("POST",),
    "/api/generate": ("POST",),
    "/api/embed": ("POST",),
    "/api/pull": ("POST",),
    "/api/show": ("POST",),
    "/api/delete": ("DELETE",),
    "/api/tags": ("GET", "HEAD"),
    "/api/ps": ("GET",),
    "/api/version": ("GET", "HEAD"),
}
_PLAIN = b"text/plain; charset=utf-8"
_LOGGED_CHARS = 40


class FakeEngine:
    """A server with Ollama's wire contract, scripted faults and a log; see `open_fake_engine`."""

    def __init__(self, behaviour: Behaviour, url: str) -> None:
        self._initial = behaviour
        self.behaviour = behaviour
        """How it behaves; assign `attrs.evolve(engine.behaviour, ...)` to change it."""
        self.url = url
        """Such as `http://127.0.0.1:40001`, without a slash at the end."""
        self.faults = Script()
        """The scripted faults that may still strike."""
        self._log = RequestLog()
        self._runners = Runners(lambda: self.behaviour, self._log, self._load_fault)
        self._inference = Inference(lambda: self.behaviour, self._runners)

    @property
    def log(self) -> RequestLog:
        """What it saw."""
        return self._log

    @property
    def loaded(self) -> tuple[str, ...]:
        """The canonical names of the models in memory."""
        return tuple(runner.model.canonical for runner in self._runners.listed())

    @property
    def loading(self) -> str | None:
        """The model whose load is under way."""
        return self._runners.loading

    def script(self, *faults: ScriptedFault) -> None:
        """Add faults; of all that match a request the oldest strikes."""
        self.faults.add(*faults)

    def reset(self) -> None:
        """Go back to the initial behaviour and models, without faults, with an empty log."""
        self.behaviour = self._initial
        self.faults.clear()
        self._log.clear()
        self._runners.reset()

    async def serve_connection(self, stream: SocketStream) -> None:
        """Serve one client until it goes."""
        await serve_connection(stream, self._answer)

    async def _answer(self, request: Request, responder: Responder) -> None:
        if request.path.startswith(PREFIX):
            await self._answer_control(request, responder)
            return
        authorization = request.header(b"authorization")
        entry = self._log.begin(request.method, request.path, authorized=authorization is not None)
        outcome = RequestOutcome.CLOSED
        try:
            outcome = await self._answer_logged(request, responder, entry, authorization)
        finally:
            if responder.broken_off:
                outcome = RequestOutcome.FAULT
            elif responder.client_gone and outcome is RequestOutcome.CLOSED:
                outcome = RequestOutcome.DISCONNECTED
            entry.status = responder.status
            self._log.end(entry, outcome)

    async def _answer_logged(
        self,
        request: Request,
        responder: Responder,
        entry: LoggedRequest,
        authorization: str | None,
    ) -> RequestOutcome:
        try:
            self._check_access(authorization)
            fault = await self._route(request, responder, entry)
        except Refusal as refusal:
            reply = {"error": refusal.error}
            if refusal.status == 401:
                reply["signin_url"] = "https://ollama.com/connect"
            await responder.json(refusal.status, reply)
            return RequestOutcome.FAULT if entry.fault else RequestOutcome.REFUSED
        except BrokenOff:
            return RequestOutcome.FAULT
        except ConnectionEnded:
            responder.client_gone = not responder.broken_off
            raise
        if fault is not None and fault.action not in {FaultAction.SLOW, FaultAction.ANSWER}:
            return RequestOutcome.FAULT
        status = responder.status or 0
        return RequestOutcome.REFUSED if status >= 400 else RequestOutcome.ANSWERED

    async def _answer_control(self, request: Request, responder: Responder) -> None:
        try:
            reply = control(self, request)
        except Refusal as refusal:
            await responder.json(refusal.status, {"error": refusal.error})
        else:
            await responder.json(200, reply)

    def _check_access(self, authorization: str | None) -> None:
        key = self.behaviour.api_key
        if key is not None and authorization != f"Bearer {key}":
            raise Refusal(401, "unauthorized")

    async def _route(
        self, request: Request, responder: Responder, entry: LoggedRequest
    ) -> ScriptedFault | None:
        """Answer a request; returns the fault that struck it, if one did."""
        demand = self._demand(request, entry)
        fault = self.faults.match(
            FaultMoment.REQUEST,
            method=request.method,
            path=request.path,
            model=entry.model,
            text=lambda: demand.text if demand is not None else "",
        )
        if fault is not None:
            entry.fault = fault.action.value
            self._log.changed()
            await anyio.sleep(fault.delay)
            if fault.replaces_answer:
                await _replace_answer(fault, responder)
                return fault
        if demand is not None:
            await self._inference.run(demand, responder, entry, fault)
        else:
            await self._answer_about_models(request, responder, entry, fault)
        return fault

    def _demand(self, request: Request, entry: LoggedRequest) -> Demand | None:
        if request.path not in _INFERENCE or request.method != "POST":
            return None
        demand = read_demand(request.path, read_body(request.body))
        entry.model = demand.model
        entry.stream = demand.stream
        entry.inputs = len(demand.inputs)
        entry.beginnings = tuple(text[:_LOGGED_CHARS] for text in demand.inputs)
        entry.options = tuple(demand.options)
        entry.keep_alive = demand.keep_alive
        return demand

    async def _answer_about_models(
        self,
        request: Request,
        responder: Responder,
        entry: LoggedRequest,
        fault: ScriptedFault | None,
    ) -> None:
        methods = _METHODS.get(request.path)
        if methods is None:
            await responder.whole(404, b"404 page not found", _PLAIN)
            return
        if request.method not in methods:
            await responder.whole(405, b"405 method not allowed", _PLAIN)
            return
        match request.path:
            case "/":
                await responder.whole(200, b"Ollama is running", _PLAIN)
            case "/api/version":
                await responder.json(200, {"version": self.behaviour.version})
            case "/api/tags":
                await responder.json(200, library.list_models(self.behaviour))
            case "/api/ps":
                await responder.json(200, library.list_loaded(self._runners.listed()))
            case "/api/show":
                body = read_body(request.body)
                await responder.json(200, library.show_model(self.behaviour, body))
            case "/api/delete":
                body = read_body(request.body)
                self.behaviour = library.delete_model(self.behaviour, body)
                await responder.whole(200, b"")
            case _:
                await self._pull(request, responder, entry, fault)

    async def _pull(
        self,
        request: Request,
        responder: Responder,
        entry: LoggedRequest,
        fault: ScriptedFault | None,
    ) -> None:
        body = read_body(request.body)
        model = await library.pull_model(self.behaviour, body, responder, entry, fault)
        if model is not None and self.behaviour.find(model.name) is None:
            models = (*self.behaviour.models, model)
            self.behaviour = attrs.evolve(self.behaviour, models=models)

    def _load_fault(self, moment: FaultMoment, entry: LoggedRequest) -> ScriptedFault | None:
        return self.faults.match(
            moment, method=entry.method, path=entry.path, model=entry.model, text=str
        )


async def _replace_answer(fault: ScriptedFault, responder: Responder) -> None:
    match fault.action:
        case FaultAction.STATUS:
            await responder.json(fault.status, {"error": fault.words})
        case FaultAction.CLOSE:
            await responder.close()
        case FaultAction.RESET:
            await responder.reset()
        case _:
            await anyio.sleep_forever()


@asynccontextmanager
async def open_fake_engine(
    behaviour: Behaviour | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[FakeEngine]:
    """Serve a fake engine until the block ends; port 0 takes a free one."""
    listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
    async with listener, anyio.create_task_group() as tasks:
        bound = listener.extra(SocketAttribute.local_port)  # noqa: S610  # anyio's, not Django's
        shown = f"[{host}]" if ":" in host else host
        engine = FakeEngine(behaviour or Behaviour(), f"http://{shown}:{bound}")
        tasks.start_soon(listener.serve, engine.serve_connection)
        try:
            yield engine
        finally:
            tasks.cancel_scope.cancel()

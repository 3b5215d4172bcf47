"""`/api/chat`, `/api/generate` and `/api/embed`: the calls that run a model."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from worker_core.testing.fake_engine.answers import (
    answer_tokens,
    disturbed,
    embedding,
    formatted_text,
    word_count,
)
from worker_core.testing.fake_engine.demands import Refusal, check_options, keep_alive_seconds
from worker_core.testing.fake_engine.lines import BrokenOff, LineStream
from worker_core.testing.fake_engine.script import FaultAction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker_core.engine import JSON
    from worker_core.testing.fake_engine.behaviour import Behaviour, FakeModel
    from worker_core.testing.fake_engine.demands import Demand
    from worker_core.testing.fake_engine.log import LoggedRequest
    from worker_core.testing.fake_engine.runners import Runners
    from worker_core.testing.fake_engine.script import ScriptedFault
    from worker_core.testing.fake_engine.wire import Responder

__all__ = ["Inference"]

_NS = 1_000_000_000
_THOUGHT = "Let me think."


class Inference:
    """Runs chat, generate and embed requests on the runners."""

    def __init__(self, behaviour: Callable[[], Behaviour], runners: Runners) -> None:
        self._behaviour = behaviour
        self._runners = runners
        self._in_flight = 0
        self._embedding = 0

    async def run(
        self,
        demand: Demand,
        responder: Responder,
        entry: LoggedRequest,
        fault: ScriptedFault | None,
    ) -> None:
        """Answer a request; raises `Refusal`, `BrokenOff` and `ConnectionEnded`."""
        limit = self._behaviour().max_in_flight
        if limit is not None and self._in_flight >= limit:
            raise Refusal(503, "server busy, please try again.  maximum pending requests exceeded")
        self._in_flight += 1
        try:
            model = self._find_model(demand)
            if demand.path == "/api/embed":
                await self._embed(model, demand, responder, entry, fault)
            else:
                await self._generate(model, demand, responder, entry, fault)
        finally:
            self._in_flight -= 1

    def _find_model(self, demand: Demand) -> FakeModel:
        if not demand.model and demand.path == "/api/chat":
            raise Refusal(400, "model is required")
        model = self._behaviour().find(demand.model) if demand.model else None
        if model is None:
            if demand.path == "/api/embed":
                raise Refusal(404, f'model "{demand.model}" not found, try pulling it first')
            raise Refusal(404, f"model '{demand.model}' not found")
        if demand.path == "/api/embed":
            return model
        verb = demand.path.removeprefix("/api/")
        if not model.can("completion"):
            raise Refusal(400, f'"{demand.model}" does not support {verb}')
        full_name = f"registry.ollama.ai/library/{model.canonical}"
        if demand.tools and not model.can("tools"):
            raise Refusal(400, f"{full_name} does not support tools")
        if demand.think and not model.can("thinking"):
            raise Refusal(400, f'"{demand.model}" does not support thinking')
        return model

    async def _generate(
        self,
        model: FakeModel,
        demand: Demand,
        responder: Responder,
        entry: LoggedRequest,
        fault: ScriptedFault | None,
    ) -> None:
        keep_alive = keep_alive_seconds(demand.keep_alive)
        if not demand.inputs and keep_alive == 0.0:
            self._runners.unload(model)
            await _Answer(demand, entry, self._behaviour()).send_empty("unload", responder)
            return
        check_options(demand.options)
        runner = await self._runners.acquire(model, demand.runner_profile, entry)
        try:
            answer = _Answer(demand, entry, self._behaviour())
            if not demand.inputs:
                await answer.send_empty("load", responder)
                return
            _check_format(demand.format)
            _check_length(model, demand)
            answer.compose(model, fault)
            await anyio.sleep(self._behaviour().prefill_seconds)
            answer.prefilled()
            if demand.stream:
                await answer.stream(responder, fault)
            else:
                await answer.send_whole(responder, fault)
        finally:
            self._runners.release(runner, keep_alive)

    async def _embed(
        self,
        model: FakeModel,
        demand: Demand,
        responder: Responder,
        entry: LoggedRequest,
        fault: ScriptedFault | None,
    ) -> None:
        started = time.monotonic_ns()
        keep_alive = keep_alive_seconds(demand.keep_alive)
        if not demand.inputs and keep_alive == 0.0:
            self._runners.unload(model)
        else:
            check_options(demand.options)
        runner = None
        vectors: list[tuple[float, ...]] = []
        if demand.inputs or keep_alive != 0.0:
            runner = await self._runners.acquire(model, demand.runner_profile, entry)
        self._embedding += 1
        try:
            if not model.can("embedding"):
                raise Refusal(501, "this model does not support embeddings")
            if demand.inputs:
                vectors = await self._vectors(model, demand)
        finally:
            self._embedding -= 1
            if runner is not None:
                self._runners.release(runner, keep_alive)
        if fault is not None and fault.action is FaultAction.CUT:
            vectors = vectors[: fault.after_chunks]
        elif fault is not None:
            await _strike_whole(fault, responder)
        reply = {
            "model": demand.model,
            "embeddings": vectors,
            "total_duration": time.monotonic_ns() - started,
            "load_duration": round(entry.load_seconds * _NS),
            "prompt_eval_count": word_count(demand.inputs),
        }
        await responder.json(200, _without_zeros(reply))

    async def _vectors(self, model: FakeModel, demand: Demand) -> list[tuple[float, ...]]:
        behaviour = self._behaviour()
        longest = max(len(text.split()) for text in demand.inputs)
        if longest > model.context_length and not demand.truncate:
            raise Refusal(400, "the input length exceeds the context length")
        alone = self._embedding == 1
        seconds = behaviour.embed_call_seconds
        await anyio.sleep(seconds + behaviour.embed_input_seconds * len(demand.inputs))
        alone = alone and self._embedding == 1
        dimensions = min(demand.dimensions or model.dimensions, model.dimensions)
        vectors = [embedding(text, dimensions) for text in demand.inputs]
        if behaviour.disturb_concurrent_embeddings and not alone:
            return [disturbed(vector) for vector in vectors]
        return vectors


class _Answer:
    """One answer of chat or generate, whose lines differ in where the text stands."""

    def __init__(self, demand: Demand, entry: LoggedRequest, behaviour: Behaviour) -> None:
        self._demand = demand
        self._entry = entry
        self._behaviour = behaviour
        self._started = time.monotonic_ns() - round(entry.load_seconds * _NS)
        self._prefill_began = self._eval_began = time.monotonic_ns()
        self._tokens: list[str] = []
        self._thinking = ""
        self._tool_calls: list[JSON] = []
        self._done_reason = "stop"
        self._token_seconds = behaviour.token_seconds

    def compose(self, model: FakeModel, fault: ScriptedFault | None) -> None:
        """Decide what to say."""
        demand, behaviour = self._demand, self._behaviour
        self._prefill_began = time.monotonic_ns()
        text = demand.last_user_text if behaviour.text is None else behaviour.text
        if demand.format and not behaviour.ignore_format:
            text = formatted_text(text, demand.format)
        count = behaviour.tokens
        if fault is not None and fault.action is FaultAction.ANSWER:
            text, count = fault.text, None
        if fault is not None and fault.action is FaultAction.SLOW:
            self._token_seconds = fault.token_seconds
        self._tokens = answer_tokens(text, count)
        limit = demand.options.get("num_predict")
        if isinstance(limit, int) and 0 <= limit < len(self._tokens):
            self._tokens = self._tokens[:limit]
            self._done_reason = "length"
        if model.can("thinking") and demand.think is not False:
            self._thinking = _THOUGHT
        called = next((name for name in demand.tools if name in text), None)
        if called is not None:
            function: JSON = {"index": 0, "name": called, "arguments": {"text": text}}
            self._tool_calls = [{"id": f"call_{self._entry.id}", "function": function}]
            self._tokens = []

    def prefilled(self) -> None:
        """Note that the prompt has been read."""
        self._eval_began = time.monotonic_ns()

    async def stream(self, responder: Responder, fault: ScriptedFault | None) -> None:
        """Send the answer token by token."""
        lines = LineStream(responder, self._entry, fault)
        if self._thinking:
            await lines.line(self._line("", thinking=self._thinking))
        if self._tool_calls:
            await lines.line(self._line("", tool_calls=self._tool_calls))
        for token in self._tokens:
            await lines.line(self._line(token))
            if self._token_seconds:
                await lines.flush()
                await anyio.sleep(self._token_seconds)
        await lines.last({**self._line(""), **self._end()})

    async def send_whole(self, responder: Responder, fault: ScriptedFault | None) -> None:
        """Send the answer as one object."""
        if self._token_seconds:
            await anyio.sleep(self._token_seconds * len(self._tokens))
        tokens, end = self._tokens, self._end()
        if fault is not None and fault.action in {FaultAction.CUT, FaultAction.NOT_DONE}:
            if fault.action is FaultAction.CUT:
                tokens = tokens[: fault.after_chunks]
            end = {"done": False}
        elif fault is not None:
            await _strike_whole(fault, responder)
        line = self._line("".join(tokens), thinking=self._thinking, tool_calls=self._tool_calls)
        await responder.json(200, {**line, **end})

    async def send_empty(self, done_reason: str, responder: Responder) -> None:
        """Say that a model was loaded or unloaded."""
        reply = {**self._line(""), "done": True, "done_reason": done_reason}
        if self._demand.stream and self._demand.path == "/api/chat":
            await LineStream(responder, self._entry, None).last(reply)
        else:
            await responder.json(200, reply)

    def _line(
        self, text: str, *, thinking: str = "", tool_calls: list[JSON] | None = None
    ) -> dict[str, object]:
        line: dict[str, object] = {"model": self._demand.model, "created_at": _now()}
        extra: dict[str, object] = {"thinking": thinking} if thinking else {}
        if tool_calls:
            extra["tool_calls"] = tool_calls
        if self._demand.path == "/api/chat":
            line["message"] = {"role": "assistant", "content": text, **extra}
        else:
            line["response"] = text
            line.update(extra)
        line["done"] = False
        if self._demand.logprobs and text:
            line["logprobs"] = [{"token": text, "logprob": -0.5, "bytes": list(text.encode())}]
        return line

    def _end(self) -> dict[str, object]:
        now = time.monotonic_ns()
        numbers = {
            "total_duration": now - self._started,
            "load_duration": round(self._entry.load_seconds * _NS),
            "prompt_eval_count": word_count(self._demand.inputs),
            "prompt_eval_duration": self._eval_began - self._prefill_began,
            "eval_count": len(self._tokens) + bool(self._tool_calls),
            "eval_duration": now - self._eval_began,
        }
        return {"done": True, "done_reason": self._done_reason, **_without_zeros(numbers)}


async def _strike_whole(fault: ScriptedFault, responder: Responder) -> None:
    """Break off an answer that is one object, as far as the fault asks for it."""
    match fault.action:
        case FaultAction.ERROR_LINE:
            await responder.json(fault.status, {"error": fault.words})
            raise BrokenOff
        case FaultAction.GARBAGE:
            await responder.whole(200, fault.text.encode())
            raise BrokenOff
        case FaultAction.ABORT:
            await responder.close()
        case FaultAction.RESET:
            await responder.reset()
        case FaultAction.HANG:
            await anyio.sleep_forever()
        case (
            FaultAction.STATUS
            | FaultAction.CLOSE
            | FaultAction.CUT
            | FaultAction.NOT_DONE
            | FaultAction.SLOW
            | FaultAction.ANSWER
        ):
            pass


def _check_format(value: JSON) -> None:
    if value in (None, "", "json") or isinstance(value, dict):
        return
    raise Refusal(500, f'invalid format: {value!r}; expected "json" or a valid JSON Schema object')


def _check_length(model: FakeModel, demand: Demand) -> None:
    asked = demand.options.get("num_ctx")
    limit = asked if isinstance(asked, int) else model.context_length
    words = word_count(demand.inputs)
    if words > limit and not demand.truncate:
        raise Refusal(
            400,
            f"request ({words} tokens) exceeds the available context size ({limit} tokens), "
            "try increasing it",
        )


def _without_zeros(reply: Mapping[str, object]) -> dict[str, object]:
    """Leave out numbers that are zero, as Go's omitempty does."""
    return {name: value for name, value in reply.items() if value != 0}


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")

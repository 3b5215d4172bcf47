"""One Ollama server, behind the contract of `worker_core.engine.Host`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import anyio
import attrs
import httpx
import orjson

from worker_core import strict_json
from worker_core.engine import Host, Operation
from worker_core.errors import EngineError, FailureClass
from worker_core_ollama.answers import (
    BrokenAnswer,
    ChatReader,
    ErrorLine,
    error_text,
    read_embeddings,
    read_loaded,
    read_model_info,
)
from worker_core_ollama.classify import ServerError, engine_error
from worker_core_ollama.requests import chat_request, embed_request, load_request, show_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from worker_core.engine import (
        ChatAnswer,
        ChatCall,
        ChatChunk,
        EmbedAnswer,
        EmbedCall,
        HostLimits,
        ModelInfo,
    )
    from worker_core_ollama.requests import Prepared
    from worker_core_ollama.settings import OllamaSettings

__all__ = ["OllamaHost"]

_CLOSE_SECONDS = 2.0
_TAIL_SECONDS = 0.5
"""How long the end of the stream may lag behind the last line; then the connection is dropped."""
_ERROR_BODY_BYTES = 64 * 1024


class OllamaHost(Host):
    """Calls one server over HTTP; every failure becomes an `EngineError`."""

    def __init__(self, settings: OllamaSettings, client: httpx.AsyncClient) -> None:
        self._settings = settings
        self._http = client
        self._base = settings.base_url.rstrip("/")

    @property
    def name(self) -> str:
        """Such as `127.0.0.1:11434`."""
        return self._settings.host_name

    @property
    def limits(self) -> HostLimits:
        """What the worker keeps to."""
        return self._settings.limits

    async def chat(self, call: ChatCall, on_chunk: Callable[[ChatChunk], None]) -> ChatAnswer:
        """Generate an answer; see `Host.chat`."""
        runner = self._settings.runner_of(call.model)
        if call.context_length is not None:
            runner = attrs.evolve(runner, num_ctx=call.context_length)
        request = chat_request(call, runner)
        reader = ChatReader(call.model, on_chunk)
        try:
            async with self._streamed(request, call.model, Operation.CHAT) as response:
                await _read_all(response, reader)
            return reader.finish(request.warnings)
        except ErrorLine as error:
            told = ServerError(status=None, text=error.text, operation=Operation.CHAT)
            raise engine_error(self.name, call.model, told) from None
        except BrokenAnswer as error:
            raise self._incomplete(call.model, str(error)) from None
        except httpx.HTTPError as error:
            if reader.begun:
                said = f"the connection ended within the answer ({type(error).__name__})"
                raise self._incomplete(call.model, said) from error
            raise self._unreachable(error) from error

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Compute vectors; see `Host.embed`."""
        request = embed_request(call, self._settings.runner_of(call.model))
        raw = await self._whole(request, call.model, Operation.EMBED)
        try:
            return read_embeddings(raw, call.model, len(call.input), request.warnings)
        except BrokenAnswer as error:
            raise self._incomplete(call.model, str(error)) from None

    async def load(self, model: str, operation: Operation) -> None:
        """Load a model; see `Host.load`. The worker must not cancel it for one job's sake."""
        request = load_request(model, operation, self._settings.runner_of(model))
        await self._whole(request, model, operation)

    async def loaded_models(self) -> frozenset[str]:
        """Return the models in memory; see `Host.loaded_models`."""
        response = await self._get("/api/ps")
        try:
            return read_loaded(response.content, _server_time(response))
        except BrokenAnswer as error:
            raise self._not_ollama(str(error)) from None

    async def describe(self, model: str) -> ModelInfo | None:
        """Return what `/api/show` tells; see `Host.describe`."""
        raw = await self._whole(show_request(model), model, None)
        try:
            return read_model_info(raw)
        except BrokenAnswer as error:
            raise self._not_ollama(str(error)) from None

    async def check(self) -> None:
        """Raise `EngineError` unless the server answers."""
        await self._get("/api/version")

    async def _get(self, path: str) -> httpx.Response:
        try:
            response = await self._http.get(self._base + path)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code != httpx.codes.OK:
            raise self._refused(response.status_code, response.content, "", None)
        return response

    async def _whole(self, request: Prepared, model: str, operation: Operation | None) -> bytes:
        try:
            async with self._streamed(request, model, operation) as response:
                try:
                    return await response.aread()
                except httpx.HTTPError as error:
                    said = f"the connection ended within the answer ({type(error).__name__})"
                    raise self._incomplete(model, said) from error
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    @asynccontextmanager
    async def _streamed(
        self, request: Prepared, model: str, operation: Operation | None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and hand out its answer, which is closed at the end whatever happens."""
        built = self._http.build_request(
            "POST",
            self._base + request.path,
            content=_written(request),
            headers={"Content-Type": "application/json"},
        )
        response = await self._http.send(built, stream=True)
        try:
            if response.status_code != httpx.codes.OK:
                body = await _read_some(response)
                raise self._refused(response.status_code, body, model, operation)
            yield response
        finally:
            # An answer left open would hold the model's only slot on the server.
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await response.aclose()

    def _refused(
        self, status: int, body: bytes, model: str, operation: Operation | None
    ) -> EngineError:
        told = ServerError(status=status, text=_error_in(body), operation=operation)
        return engine_error(self.name, model, told)

    def _incomplete(self, model: str, why: str) -> EngineError:
        return EngineError(FailureClass.INCOMPLETE, f"{self.name}: {model!r}: {why}")

    def _not_ollama(self, why: str) -> EngineError:
        return EngineError(
            FailureClass.UNREACHABLE, f"{self.name}: not an answer of Ollama's ({why})"
        )

    def _unreachable(self, error: httpx.HTTPError) -> EngineError:
        if isinstance(error, httpx.ConnectTimeout):
            seconds = self._settings.connect_timeout.total_seconds()
            why = f"no connection within {seconds:g} s: is Ollama running, and is base_url right?"
        elif isinstance(error, httpx.ConnectError):
            why = f"cannot connect: is Ollama running, and is base_url right? ({error})"
        else:
            why = f"the connection ended before the answer ({type(error).__name__})"
        return EngineError(FailureClass.UNREACHABLE, f"{self.name}: {why}")


async def _read_all(response: httpx.Response, reader: ChatReader) -> None:
    """Feed the reader to the end of the stream, which after the last line it need not wait for.

    The loop is never left in the middle: httpx's nested generators would be collected as
    garbage, which trio reports. A cancelled scope instead ends them from within.
    """
    failure: BrokenAnswer | ErrorLine | None = None
    ended = False
    with anyio.CancelScope() as reading:
        async for data in response.aiter_bytes():
            if ended:
                continue
            try:
                ended = reader.feed(data)
                wait = _TAIL_SECONDS
            except (BrokenAnswer, ErrorLine) as error:
                failure, ended, wait = error, True, 0.0
            if ended:
                reading.deadline = anyio.current_time() + wait
    if failure is not None:
        raise failure


async def _read_some(response: httpx.Response) -> bytes:
    """Return an error's body, as much of it as could matter."""
    body = b""
    with anyio.CancelScope() as reading:
        async for data in response.aiter_bytes():
            body += data
            if len(body) > _ERROR_BODY_BYTES:
                reading.cancel()
    return body[:_ERROR_BODY_BYTES]


def _written(request: Prepared) -> bytes:
    try:
        return strict_json.dumps(request.body)
    except strict_json.Unpublishable as error:
        raise EngineError(FailureClass.BAD_INPUT, f"the request cannot be sent: {error}") from None


def _error_in(body: bytes) -> str:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")
    return error_text(value.get("error")) if isinstance(value, dict) else ""


def _server_time(response: httpx.Response) -> datetime:
    try:
        told = parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)
    return told if told.tzinfo is not None else told.replace(tzinfo=UTC)

"""The embedded model behind the contract of `worker_core.engine.Host`."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import anyio
import httpx

from worker_core import strict_json
from worker_core.engine import EmbedAnswer, Host
from worker_core.errors import EngineError, FailureClass
from worker_core.model_name import canonical_model_name
from worker_core_llamacpp.completion import CompletionReader, completion_request
from worker_core_llamacpp.embedding import (
    embedding_request,
    may_exceed,
    read_embedding,
    read_tokens,
    tokenize_request,
)
from worker_core_llamacpp.failures import failure_of, too_long
from worker_core_llamacpp.left_out import left_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from worker_core.engine import (
        JSON,
        ChatAnswer,
        ChatCall,
        ChatChunk,
        EmbedCall,
        HostLimits,
        Operation,
    )
    from worker_core_llamacpp.child import Child
    from worker_core_llamacpp.embedding import Embedding
    from worker_core_llamacpp.settings import LlamaCppSettings

__all__ = ["LlamaCppHost"]

_CLOSE_SECONDS = 2.0
_TAIL_SECONDS = 0.5
"""How long the end of the stream may lag behind the last event; then the connection is dropped."""


class LlamaCppHost(Host):
    """Runs one model in a child process; every failure becomes an `EngineError`."""

    def __init__(self, settings: LlamaCppSettings, child: Child, client: httpx.AsyncClient) -> None:
        self._settings = settings
        self._child = child
        self._http = client

    @property
    def name(self) -> str:
        """The one place where it runs."""
        return "embedded"

    @property
    def limits(self) -> HostLimits:
        """What the worker keeps to."""
        return self._settings.limits

    async def chat(self, call: ChatCall, on_chunk: Callable[[ChatChunk], None]) -> ChatAnswer:
        """Continue the conversation's text; see `Host.chat`. Loads the model if it is not loaded."""
        self._check_model(call.model)
        body, warnings = completion_request(call, self._settings.max_tokens)
        url = await self._child.url()
        reader = CompletionReader(call.model, on_chunk)
        started = time.monotonic_ns()
        try:
            async with self._streamed(f"{url}/completion", body) as response:
                await _read_all(response, reader)
        except httpx.HTTPError as error:
            await self._raise_lost(error, begun=reader.begun)
        return reader.finish(time.monotonic_ns() - started, warnings)

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Compute vectors; see `Host.embed`. Loads the model if it is not loaded.

        One input at a time, as Ollama does it: what else is in llama.cpp's batch changes the last
        digits of a vector, so that equal texts had unequal ones, and an answer to be generated
        would wait for all inputs. Several in a batch are only a tenth faster.
        """
        self._check_model(call.model)
        url = await self._child.url()
        started = time.monotonic_ns()
        inputs = [await self._fitting(url, text, call) for text in call.input]
        found = [await self._embed_one(url, given, call) for given in inputs]
        return EmbedAnswer(
            model=call.model,
            embeddings=tuple([one.vector for one in found]),
            total_duration=time.monotonic_ns() - started,
            prompt_eval_count=sum(one.tokens or 0 for one in found),
            warnings=left_out(call),
        )

    async def loaded_models(self) -> frozenset[str]:
        """Return the model's name while its process can answer."""
        loaded = {canonical_model_name(self._settings.model)} if self._child.is_running else set()
        return frozenset(loaded)

    async def load(self, model: str, operation: Operation) -> None:  # noqa: ARG002  # one server does both
        """Start the child and wait until it can answer."""
        self._check_model(model)
        await self._child.url()

    async def check(self) -> None:
        """Raise `EngineError` if the child is there and does not answer."""
        if not self._child.is_running:
            return
        try:
            response = await self._http.get(f"{await self._child.url()}/health")
        except httpx.HTTPError as error:
            await self._raise_lost(error, begun=False)
        if response.status_code != httpx.codes.OK:
            raise failure_of(response.status_code, response.content, self._settings.model)

    async def _fitting(self, url: str, text: str, call: EmbedCall) -> JSON:
        """Return the text as it is, or as many of its tokens as fit into the context."""
        # llama.cpp wants one place free for a token to come, also where none will.
        limit = self._settings.context - 1
        if not may_exceed(text, limit):
            return text
        raw = await self._whole(f"{url}/tokenize", tokenize_request(text))
        tokens = read_tokens(raw, call.model)
        if len(tokens) > limit and not call.truncate:
            raise too_long(call.model)
        return [*tokens[:limit]]

    async def _embed_one(self, url: str, given: JSON, call: EmbedCall) -> Embedding:
        raw = await self._whole(f"{url}/v1/embeddings", embedding_request(given))
        return read_embedding(raw, call.model, call.dimensions)

    async def _whole(self, url: str, body: dict[str, JSON]) -> bytes:
        begun = False
        try:
            async with self._streamed(url, body) as response:
                begun = True
                return await response.aread()
        except httpx.HTTPError as error:
            await self._raise_lost(error, begun=begun)

    @asynccontextmanager
    async def _streamed(self, url: str, body: dict[str, JSON]) -> AsyncIterator[httpx.Response]:
        """Send a request and hand out its answer, which is closed at the end whatever happens."""
        request = self._http.build_request(
            "POST", url, content=_written(body), headers={"Content-Type": "application/json"}
        )
        response = await self._http.send(request, stream=True)
        try:
            if response.status_code != httpx.codes.OK:
                raise failure_of(response.status_code, await response.aread(), self._settings.model)
            yield response
        finally:
            # llama.cpp stops computing when the connection closes, and only then.
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await response.aclose()

    async def _raise_lost(self, error: httpx.HTTPError, *, begun: bool) -> NoReturn:
        model = self._settings.model
        if await self._child.has_died():
            raise EngineError(
                FailureClass.CRASHED, f"embedded: the process of {model!r} died"
            ) from error
        failure = FailureClass.INCOMPLETE if begun else FailureClass.UNREACHABLE
        raise EngineError(
            failure, f"embedded: {model!r}: the connection ended ({type(error).__name__})"
        ) from error

    def _check_model(self, model: str) -> None:
        own = self._settings.model
        if canonical_model_name(model) != canonical_model_name(own):
            raise EngineError(
                FailureClass.MODEL_MISSING, f"embedded: {model!r} is not here, only {own!r}"
            )


async def _read_all(response: httpx.Response, reader: CompletionReader) -> None:
    """Feed the reader to the end of the stream, which after the last event it need not wait for.

    The loop is never left in the middle: httpx's nested generators would be collected as
    garbage, which trio reports. A cancelled scope instead ends them from within.
    """
    failure: EngineError | None = None
    ended = False
    with anyio.CancelScope() as reading:
        async for data in response.aiter_bytes():
            if ended:
                continue
            try:
                ended = reader.feed(data)
                wait = _TAIL_SECONDS
            except EngineError as error:
                failure, ended, wait = error, True, 0.0
            if ended:
                reading.deadline = anyio.current_time() + wait
    if failure is not None:
        raise failure


def _written(body: dict[str, JSON]) -> bytes:
    try:
        return strict_json.dumps(body)
    except strict_json.Unpublishable as error:
        raise EngineError(FailureClass.BAD_INPUT, f"the request cannot be sent: {error}") from None

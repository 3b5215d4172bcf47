"""The engine `llamacpp`: one model in a child process of the worker."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread
import httpx

from worker_core import Engine
from worker_core_llamacpp.child import Child
from worker_core_llamacpp.host import LlamaCppHost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from worker_core_llamacpp.settings import LlamaCppSettings

__all__ = ["LlamaCppEngine"]

_CLOSE_SECONDS = 5.0
_CONNECT_SECONDS = 5.0


class LlamaCppEngine(Engine):
    """Runs the packaged model, or another `.gguf` file, without a server."""

    def __init__(self, settings: LlamaCppSettings) -> None:
        self._settings = settings
        self._child: Child | None = None
        self._client: httpx.AsyncClient | None = None
        self._hosts: tuple[LlamaCppHost, ...] = ()

    @property
    def name(self) -> str:
        """The engine's name."""
        return "llamacpp"

    @property
    def hosts(self) -> Sequence[LlamaCppHost]:
        """The one host; empty before the engine is entered."""
        return self._hosts

    async def __aenter__(self) -> Self:
        """Get ready; the model is loaded when it is asked for."""
        make = partial(
            httpx.AsyncClient,
            # The worker keeps every clock but this one, and bounds what is in flight.
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            # llama.cpp closes a connection after a stream without saying so before.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )
        self._client = await anyio.to_thread.run_sync(make)
        self._child = Child(self._settings)
        self._hosts = (LlamaCppHost(self._settings, self._child, self._client),)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the child."""
        child, client = self._child, self._client
        self._child, self._client, self._hosts = None, None, ()
        if child is not None:
            await child.stop()  # noqa: ASYNC102  # stop() shields and bounds itself
        if client is not None:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await client.aclose()

"""The engine `ollama`: one server, and the HTTP client that talks to it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread
import httpx

from worker_core import Engine
from worker_core_ollama.host import OllamaHost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from worker_core_ollama.settings import OllamaSettings

__all__ = ["OllamaEngine"]

_CLOSE_SECONDS = 5.0


class OllamaEngine(Engine):
    """Runs models on the server of `base_url`."""

    def __init__(self, settings: OllamaSettings) -> None:
        self._settings = settings
        self._client: httpx.AsyncClient | None = None
        self._hosts: tuple[OllamaHost, ...] = ()

    @property
    def name(self) -> str:
        """The engine's name."""
        return "ollama"

    @property
    def hosts(self) -> Sequence[OllamaHost]:
        """The one server; empty before the engine is entered."""
        return self._hosts

    async def __aenter__(self) -> Self:
        """Make the client; nothing is asked of the server yet."""
        # Making it reads the certificates from the disk.
        self._client = await anyio.to_thread.run_sync(partial(_make_client, self._settings))
        self._hosts = (OllamaHost(self._settings, self._client),)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        client, self._client, self._hosts = self._client, None, ()
        if client is not None:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await client.aclose()


def _make_client(settings: OllamaSettings) -> httpx.AsyncClient:
    headers = {"Accept-Encoding": "identity"}
    if settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key}"
    return httpx.AsyncClient(
        # The worker keeps every clock but this one, and bounds what is in flight: a bound here
        # would let a call wait where nobody sees it.
        timeout=httpx.Timeout(None, connect=settings.connect_timeout.total_seconds()),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        headers=headers,
        trust_env=not settings.is_loopback,
        follow_redirects=False,
    )

"""A fake server for every test; a real one beside it when OLLAMA_BASE_URL names one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import attrs
import httpx
import pytest
from worker_core_ollama.engine import OllamaEngine
from worker_core_ollama.settings import OllamaSettings

from worker_core.engine import ChatCall, Message
from worker_core.testing.fake_engine import Behaviour, FakeEngine, open_fake_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker_core_ollama.host import OllamaHost

    from worker_core.engine import JSON

LIVE_URL = os.environ.get("OLLAMA_BASE_URL")


class ChatCallMaker(Protocol):
    def __call__(self, text: str = ..., model: str = ..., **options: JSON) -> ChatCall: ...


@attrs.frozen
class Server:
    """A server to test against, and models that it has."""

    url: str
    chat_model: str
    embedding_model: str


@pytest.fixture
async def fake() -> AsyncIterator[FakeEngine]:
    async with open_fake_engine(Behaviour(embed_call_seconds=0.0)) as engine:
        yield engine


@pytest.fixture
async def host(fake: FakeEngine) -> AsyncIterator[OllamaHost]:
    async with OllamaEngine(OllamaSettings(base_url=fake.url)) as engine:
        yield engine.hosts[0]


@pytest.fixture
def chat_call() -> ChatCallMaker:
    def make(text: str = "one two three", model: str = "llama3", **options: JSON) -> ChatCall:
        return ChatCall(model=model, messages=(Message("user", text),), options=options)

    return make


@pytest.fixture(params=["fake", *(["live"] if LIVE_URL else [])])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    if request.param == "fake":
        async with open_fake_engine() as engine:
            yield Server(engine.url, "llama3", "nomic-embed-text")
    else:
        assert LIVE_URL is not None
        yield await find_models(LIVE_URL)


async def find_models(url: str) -> Server:
    """Choose the smallest models of a real server: one that chats, one that embeds."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        models = (await client.get("/api/tags")).raise_for_status().json()["models"]
        smallest: dict[str, str] = {}
        for model in sorted(models, key=lambda model: int(model["size"])):
            shown = await client.post("/api/show", json={"model": model["name"]})
            for capability in shown.raise_for_status().json()["capabilities"]:
                smallest.setdefault(capability, model["name"])
    return Server(url, smallest["completion"], smallest["embedding"])


@pytest.fixture
async def any_host(server: Server) -> AsyncIterator[OllamaHost]:
    async with OllamaEngine(OllamaSettings(base_url=server.url)) as engine:
        yield engine.hosts[0]

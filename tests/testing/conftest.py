"""Fixtures for the fake engine's own tests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from worker_core.testing.fake_engine import Behaviour, FakeEngine, open_fake_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def client_of(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=engine.url, trust_env=False, timeout=5.0) as client:
        yield client


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with open_fake_engine(Behaviour(embed_call_seconds=0.0)) as running:
        yield running


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(engine) as made:
        yield made

"""A real HTTP server with Ollama's wire contract, scripted faults and a log of what it saw.

In a test::

    async with open_fake_engine(Behaviour(load_seconds=0.1)) as engine:
        engine.script(ScriptedFault(action=FaultAction.STATUS, status=503, path="/api/chat"))
        ...  # talk to engine.url
        assert engine.log.count("/api/chat") == 2

As a process of its own, shared by others: `python -m worker_core.testing.fake_engine --port 0`
prints its URL as its first line and is scripted under `/_fake/` (see `control`).
"""

from __future__ import annotations

from worker_core.testing.fake_engine.answers import embedding
from worker_core.testing.fake_engine.behaviour import Behaviour, FakeModel
from worker_core.testing.fake_engine.log import LoggedRequest, RequestLog, RequestOutcome
from worker_core.testing.fake_engine.script import FaultAction, FaultMoment, ScriptedFault
from worker_core.testing.fake_engine.server import FakeEngine, open_fake_engine

__all__ = [
    "Behaviour",
    "FakeEngine",
    "FakeModel",
    "FaultAction",
    "FaultMoment",
    "LoggedRequest",
    "RequestLog",
    "RequestOutcome",
    "ScriptedFault",
    "embedding",
    "open_fake_engine",
]

"""The calls about models that run none: tags, ps, show, version, pull, delete."""

from __future__ import annotations

import hashlib
import math
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import attrs

from worker_core.testing.fake_engine.behaviour import FakeModel
from worker_core.testing.fake_engine.demands import Refusal
from worker_core.testing.fake_engine.lines import LineStream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker_core.engine import JSON
    from worker_core.testing.fake_engine.behaviour import Behaviour
    from worker_core.testing.fake_engine.log import LoggedRequest
    from worker_core.testing.fake_engine.runners import Runner
    from worker_core.testing.fake_engine.script import ScriptedFault
    from worker_core.testing.fake_engine.wire import Responder

__all__ = ["delete_model", "list_loaded", "list_models", "pull_model", "show_model"]

_MODIFIED = "2026-01-01T00:00:00Z"
_FOR_EVER = timedelta(days=365 * 290)
_PULL_STEPS = 4


def list_models(behaviour: Behaviour) -> dict[str, object]:
    """Return the answer of `/api/tags`."""
    return {"models": [_tag(model) for model in behaviour.models]}


def list_loaded(runners: list[Runner]) -> dict[str, object]:
    """Return the answer of `/api/ps`; models that still load are absent."""
    now = time.monotonic()
    wall = datetime.now(UTC)
    models = []
    for runner in runners:
        left = (runner.keep_alive if runner.users else runner.expires_at - now)  # fmt: skip
        until = wall + (_FOR_EVER if math.isinf(left) else timedelta(seconds=left))
        context = runner.profile.get("num_ctx", runner.model.context_length)
        models.append(
            {
                "name": runner.model.canonical,
                "model": runner.model.canonical,
                "size": runner.model.size,
                "digest": _digest(runner.model),
                "details": _details(runner.model),
                "expires_at": until.isoformat().replace("+00:00", "Z"),
                "size_vram": runner.model.size,
                "context_length": context,
            }
        )
    return {"models": models}


def show_model(behaviour: Behaviour, body: Mapping[str, JSON]) -> dict[str, object]:
    """Return the answer of `/api/show`; raises `Refusal` for an unknown model."""
    model = _named(behaviour, body)
    return {
        "details": _details(model),
        "model_info": {
            "general.architecture": "llama",
            "llama.context_length": model.context_length,
            "llama.embedding_length": model.dimensions,
        },
        "capabilities": list(model.capabilities),
        "modified_at": _MODIFIED,
    }


def delete_model(behaviour: Behaviour, body: Mapping[str, JSON]) -> Behaviour:
    """Return the behaviour without the model: gone from the disk, and not from memory."""
    gone = _named(behaviour, body)
    return attrs.evolve(
        behaviour, models=tuple(model for model in behaviour.models if model is not gone)
    )


async def pull_model(
    behaviour: Behaviour,
    body: Mapping[str, JSON],
    responder: Responder,
    entry: LoggedRequest,
    fault: ScriptedFault | None,
) -> FakeModel | None:
    """Answer `/api/pull`; returns the model that is there now, `None` when there is none such."""
    model = FakeModel.named(_name_in(body))
    pullable = behaviour.pullable
    known = pullable is None or any(
        FakeModel.named(name).canonical == model.canonical for name in pullable
    )
    error = {"error": "pull model manifest: file does not exist"}
    if body.get("stream") is False:
        if not known:
            raise Refusal(500, error["error"])
        await anyio.sleep(behaviour.pull_seconds)
        await responder.json(200, {"status": "success"})
        return model
    lines = LineStream(responder, entry, fault)
    await lines.line({"status": "pulling manifest"})
    if not known:
        await lines.last(error)
        return None
    digest = _digest(model)
    for step in range(_PULL_STEPS + 1):
        done = model.size * step // _PULL_STEPS
        progress = {"digest": f"sha256:{digest}", "total": model.size, "completed": done}
        await lines.line({"status": f"pulling {digest[:12]}", **progress})
        if behaviour.pull_seconds:
            await lines.flush()
            await anyio.sleep(behaviour.pull_seconds / _PULL_STEPS)
    await lines.line({"status": "verifying sha256 digest"})
    await lines.line({"status": "writing manifest"})
    await lines.last({"status": "success"})
    return model


def _name_in(body: Mapping[str, JSON]) -> str:
    name = body.get("model") or body.get("name")
    if not isinstance(name, str):
        raise Refusal(400, "model is required")
    return name


def _named(behaviour: Behaviour, body: Mapping[str, JSON]) -> FakeModel:
    name = _name_in(body)
    model = behaviour.find(name)
    if model is None:
        raise Refusal(404, f"model '{name}' not found")
    return model


def _tag(model: FakeModel) -> dict[str, object]:
    tag: dict[str, object] = {
        "name": model.canonical,
        "model": model.canonical,
        "modified_at": _MODIFIED,
        "size": 0 if model.remote else model.size,
        "digest": _digest(model),
        "details": _details(model),
        "capabilities": list(model.capabilities),
    }
    if model.remote:
        remote = model.canonical.removesuffix("-cloud").removesuffix(":cloud")
        tag.update(remote_model=remote, remote_host="https://ollama.com:443")
    return tag


def _details(model: FakeModel) -> dict[str, object]:
    family = "bert" if model.can("embedding") else "llama"
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": "3B",
        "quantization_level": "Q4_K_M",
    }


def _digest(model: FakeModel) -> str:
    return hashlib.sha256(model.runner_key.encode()).hexdigest()

"""The result envelope: one form for every job type, written as strict JSON."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import attrs
import orjson
from cattrs.preconf.orjson import make_converter

from worker_core._runtime.engine_use import EngineUse
from worker_core.engine import ChatAnswer, EmbedAnswer
from worker_core.strict_json import dumps

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Envelope", "write_envelope", "write_pointer"]

_converter = make_converter(omit_if_default=False)


@attrs.define(kw_only=True)
class Envelope:
    """What goes into a result beside the answer itself. Times in seconds."""

    # Not frozen: one is made for each job, and lives for a moment.

    type: str
    attempt: int
    worker: str
    queue_wait: float | None
    total: float
    use: EngineUse | None
    """What the job used of the engine; `None` where it asked for none."""
    warnings: Sequence[str] = ()

    def members(self) -> dict[str, object]:
        """Return the envelope's members but for the answer, in the order in which they are read."""
        use = self.use or _NO_USE
        return {
            "model": _NO_MODEL if self.use is None else _model(use),
            "usage": _NO_USAGE if self.use is None else _usage(use),
            "timings": {
                "queue_wait_ms": None if self.queue_wait is None else _ms(self.queue_wait),
                "admission_ms": _ms(use.admission_seconds),
                "load_ms": None if use.load_seconds is None else _ms(use.load_seconds),
                "first_token_ms": (
                    None if use.first_token_seconds is None else _ms(use.first_token_seconds)
                ),
                "total_ms": _ms(self.total),
            },
            "fallback": _fallback(use),
            "attempt": self.attempt,
            "worker": self.worker,
            "warnings": [*use.warnings, *self.warnings],
        }


def _model(use: EngineUse) -> dict[str, str | None]:
    return {"asked": use.model_asked, "used": use.model_used}


def _fallback(use: EngineUse) -> dict[str, object] | None:
    if use.fallback is None:
        return None
    own = {"strategy": use.fallback.strategy, "reason": use.fallback.reason}
    # First, for they are read first; and again, for a plugin's detail must not say otherwise.
    return {**own, **use.fallback.detail, **own}


def _usage(use: EngineUse) -> dict[str, int]:
    return {
        "prompt_tokens": use.prompt_tokens,
        "completion_tokens": use.completion_tokens,
        "total_tokens": use.prompt_tokens + use.completion_tokens,
    }


_NO_USE = EngineUse()
_NO_MODEL = _model(_NO_USE)
_NO_USAGE = _usage(_NO_USE)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3) if seconds > 0 else 0.0


def write_envelope(envelope: Envelope, answer: object) -> bytes:
    """Write the envelope around `answer`; raises `Unpublishable` for what JSON cannot carry."""
    # The answer is written on its own, so that only its nulls make anyone look for a NaN.
    written = dumps(_in_wire_form(answer))
    whole = {"type": envelope.type, "answer": orjson.Fragment(written), **envelope.members()}
    try:
        return orjson.dumps(whole)
    except TypeError:
        # Half an emoji in a warning or a model's name must not cost the answer.
        return dumps(whole)


def write_pointer(envelope: Envelope, *, key: str, size: int, ttl: timedelta) -> bytes:
    """Write the envelope of an answer that is kept under `key`, as a whole envelope of `size` bytes."""
    stored = {"key": key, "bytes": size, "ttl_seconds": int(ttl.total_seconds())}
    return dumps({"type": envelope.type, "answer": None, "stored": stored, **envelope.members()})


def _in_wire_form(answer: object) -> object:
    if isinstance(answer, ChatAnswer | EmbedAnswer):
        return _ollama_form(answer)
    if hasattr(answer, "__attrs_attrs__"):
        return _converter.unstructure(answer)
    return answer


def _ollama_form(answer: ChatAnswer | EmbedAnswer) -> dict[str, object]:
    """Return what Ollama would have answered: what it does not say is absent, not null."""

    def said(field: attrs.Attribute[object], value: object) -> bool:
        return value is not None and field.name != "warnings"

    wire = attrs.asdict(answer, recurse=False, filter=said)
    if isinstance(answer, ChatAnswer):
        wire["message"] = attrs.asdict(answer.message, recurse=False, filter=said)
    return wire

"""When two requests are the same: their canonical form, and its digest. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import attrs

from worker_core.model_name import canonical_model_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker_core import JSON, ChatCall

__all__ = ["digest_of", "is_at_temperature_zero", "tenant_part"]

_ONLY_HOW_FAST = frozenset(
    {"low_vram", "main_gpu", "num_batch", "num_gpu", "num_thread", "numa", "use_mlock", "use_mmap"}
)
"""Options that say how a model is run, not what it answers."""
_NO_TENANT = "-"


def digest_of(call: ChatCall, tenant: str | None) -> str:
    """Return the same text for the same request of the same tenant, and for no other."""
    form: dict[str, object] = {
        "tenant": tenant,
        "model": canonical_model_name(call.model),
        "messages": [_said(attrs.asdict(message, recurse=False)) for message in call.messages],
        "options": {
            name: value for name, value in call.options.items() if name not in _ONLY_HOW_FAST
        },
        "format": call.format,
        "tools": call.tools,
        "think": call.think,
        "context_length": call.context_length,
    }
    # Not orjson: half an emoji must have a digest too.
    text = json.dumps(_with_plain_numbers(form), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def tenant_part(tenant: str | None) -> str:
    """Return the part of a key that is a tenant's, so that its answers can be found; never its name."""
    if tenant is None:
        return _NO_TENANT
    return hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_at_temperature_zero(call: ChatCall) -> bool:
    """Tell whether a request says so; a model's own temperature is hardly ever 0."""
    temperature = call.options.get("temperature")
    return (
        isinstance(temperature, int | float)
        and not isinstance(temperature, bool)
        and temperature == 0
    )


def _said(members: Mapping[str, JSON]) -> dict[str, JSON]:
    return {name: value for name, value in members.items() if value is not None}


def _with_plain_numbers(value: object) -> object:
    """Return the same JSON with 1.0 written as 1, which JavaScript takes for the same."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _with_plain_numbers(member) for name, member in value.items()}
        case list() | tuple():
            return [_with_plain_numbers(item) for item in value]
        case _:
            return value

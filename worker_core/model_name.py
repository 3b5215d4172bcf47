"""Model names, compared as Ollama compares them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["canonical_model_name", "is_model_in"]

_DEFAULT_HOST = "registry.ollama.ai/"
_DEFAULT_NAMESPACE = "library/"
_DEFAULT_TAG = "latest"


def canonical_model_name(name: str) -> str:
    """Return the one spelling that stands for all of a model's: `Llama3` and `llama3:latest` are one.

    A name is `[host/][namespace/]model[:tag]`; the default host, namespace and tag may be left
    out, and case does not matter. (Ollama, `types/model/name.go`.)
    """
    lowered = name.strip().lower().removeprefix(_DEFAULT_HOST).removeprefix(_DEFAULT_NAMESPACE)
    # A colon before the last slash belongs to the host's port, not to the tag.
    has_tag = ":" in lowered.rpartition("/")[2]
    return lowered if has_tag else f"{lowered}:{_DEFAULT_TAG}"


def is_model_in(name: str, names: Iterable[str]) -> bool:
    """Tell whether `name` means one of `names`, however each is spelt."""
    wanted = canonical_model_name(name)
    return any(canonical_model_name(other) == wanted for other in names)

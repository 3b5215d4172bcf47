"""What the fake engine pretends to be: its models, its clocks, its habits."""

from __future__ import annotations

import attrs
from attrs.validators import ge, optional

from worker_core.model_name import canonical_model_name

__all__ = ["Behaviour", "FakeModel"]

_EMBEDDING_MARKS = ("embed", "minilm", "bge", "e5")
_seconds = attrs.validators.and_(ge(0.0))


@attrs.frozen(kw_only=True)
class FakeModel:
    """One model on the fake server's disk."""

    name: str
    capabilities: tuple[str, ...] = ("completion", "tools")
    """Ollama's words: `completion`, `tools`, `thinking`, `vision`, `embedding`."""
    load_seconds: float | None = attrs.field(default=None, validator=optional(_seconds))
    """How long its load takes; `None`: as `Behaviour.load_seconds`."""
    context_length: int = 8192
    """Counted in words here."""
    dimensions: int = 384
    size: int = 2_000_000_000
    """Bytes, on disk and in memory."""
    remote: bool = False
    """A `:cloud` stub: in tags, never in ps."""
    weights: str | None = None
    """Names of equal weights share one runner, as in Ollama; `None`: weights of its own."""

    @classmethod
    def named(cls, name: str) -> FakeModel:
        """Return a model of that name; one whose name says so embeds, every other one chats."""
        if any(mark in name.lower() for mark in _EMBEDDING_MARKS):
            return cls(name=name, capabilities=("embedding",))
        return cls(name=name)

    @property
    def canonical(self) -> str:
        """The spelling that stands for all of its spellings."""
        return canonical_model_name(self.name)

    @property
    def runner_key(self) -> str:
        """What names the runner that serves it."""
        return self.weights or self.canonical

    def can(self, capability: str) -> bool:
        """Tell whether it has that capability."""
        return capability in self.capabilities


_DEFAULT_MODELS = (
    FakeModel(name="llama3:latest"),
    FakeModel(name="llama3.2:1b"),
    FakeModel(name="qwen3:latest", capabilities=("completion", "tools", "thinking")),
    FakeModel(name="nomic-embed-text:latest", capabilities=("embedding",), dimensions=768),
)


@attrs.frozen(kw_only=True)
class Behaviour:
    """How the fake engine behaves when no fault is scripted. Times are seconds."""

    models: tuple[FakeModel, ...] = _DEFAULT_MODELS
    loaded: tuple[str, ...] = ()
    """The models in memory at the start."""
    version: str = "0.33.0"
    api_key: str | None = None
    """When set, `/api/*` wants `Authorization: Bearer <key>`; else 401."""

    parallel: int = attrs.field(default=1, validator=ge(1))
    """`OLLAMA_NUM_PARALLEL`: answers at once per chat model; embedding models take one."""
    max_loaded: int = attrs.field(default=3, validator=ge(1))
    """`OLLAMA_MAX_LOADED_MODELS`."""
    max_queue: int = attrs.field(default=512, validator=ge(0))
    """`OLLAMA_MAX_QUEUE`: requests that may wait for a load; one more is a 503."""
    max_in_flight: int | None = None
    """Chat, generate and embed requests at once, loaded or not; one more is a 503."""

    load_seconds: float = attrs.field(default=0.0, validator=_seconds)
    keep_alive_seconds: float = 300.0
    """Negative: for ever."""
    prefill_seconds: float = attrs.field(default=0.0, validator=_seconds)
    """From the model being free to the first token."""
    token_seconds: float = attrs.field(default=0.0, validator=_seconds)
    """Between two tokens."""
    tokens: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """Tokens in an answer (the text is repeated or cut); `None`: as the text has."""
    text: str | None = None
    """The answer to everything; `None`: the words of the last user message."""
    embed_call_seconds: float = attrs.field(default=0.002, validator=_seconds)
    embed_input_seconds: float = attrs.field(default=0.0002, validator=_seconds)
    pull_seconds: float = attrs.field(default=0.0, validator=_seconds)
    """How long a whole pull takes."""
    pullable: tuple[str, ...] | None = None
    """The names that the registry has; `None`: every name."""

    stall_during_loads: bool = False
    """Requests to a loaded model wait while another model loads."""
    ignore_format: bool = False
    """Answer prose though a `format` was asked for."""
    disturb_concurrent_embeddings: bool = False
    """Spoil the vectors of embed calls that overlap."""
    stuck_stopping: tuple[str, ...] = ()
    """Models whose unload never ends: ps keeps them with a past `expires_at`."""

    def find(self, name: str) -> FakeModel | None:
        """Return the model that `name` means, however it is spelt."""
        wanted = canonical_model_name(name)
        return next((model for model in self.models if model.canonical == wanted), None)

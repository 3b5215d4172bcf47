"""What runs models: the calls that an engine takes, its answers, and what an engine plugin provides.

An engine has one or more hosts. Job types never see either: they call
`JobContext.engine`, which admits the call (model loaded, place free), times it
and retries it. The words are Ollama's, so that an answer can be passed on as it is.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import attrs

from worker_core.circuit import CircuitLimits
from worker_core.errors import EngineError, FailureClass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

__all__ = [
    "JSON",
    "ChatAnswer",
    "ChatCall",
    "ChatChunk",
    "EmbedAnswer",
    "EmbedCall",
    "Engine",
    "EngineProgress",
    "Host",
    "HostLimits",
    "Message",
    "ModelInfo",
    "Operation",
    "Phase",
]

if TYPE_CHECKING:
    JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
    """A value that JSON can carry; opaque to the worker (tools, schemas, options)."""
else:
    # Recursive only for the type checker: when data gets its shape, anything may stand here.
    JSON = Any


class Operation(enum.Enum):
    """What a model is asked to do; the first half of a circuit's name."""

    CHAT = "chat"
    EMBED = "embeddings"


class Phase(enum.Enum):
    """What a call to an engine is waiting for."""

    WAITING = "waiting"
    """For a place on a host."""
    LOADING = "loading"
    """For its model: the host does not list it as loaded."""
    GENERATING = "generating"


@attrs.frozen
class EngineProgress:
    """How far a call is; `tokens` counts the pieces of the answer so far."""

    phase: Phase
    tokens: int = 0


@attrs.frozen
class Message:
    """One message of a conversation."""

    role: str
    content: str = ""
    thinking: str | None = None
    images: tuple[str, ...] | None = None
    """Base64, without a `data:` prefix."""
    tool_calls: tuple[JSON, ...] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


@attrs.frozen(kw_only=True)
class ChatCall:
    """One chat request to a model. `options` are Ollama's; times in `keep_alive` are Ollama's too."""

    model: str
    messages: tuple[Message, ...]
    options: Mapping[str, JSON] = attrs.field(factory=dict)
    format: JSON = None
    tools: tuple[JSON, ...] | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None
    context_length: int | None = None
    """Tokens of context, where an operator wants others than the host's own for this call: the
    host may load the model anew for it. A job's own wish is the option `num_ctx`."""


@attrs.frozen
class ChatChunk:
    """A piece of an answer as it is generated: text, thinking, tool calls."""

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[JSON, ...] = ()
    """In the engine's own form; each of them whole."""
    restart: bool = False
    """The answer begins anew, and the pieces before this one do not count: a fallback answers.
    An engine never says so."""


@attrs.frozen(kw_only=True)
class ChatAnswer:
    """A whole answer, field for field what Ollama's last chunk and all before it amount to.

    Durations are nanoseconds, as on Ollama's wire; `None` where the engine did not say.
    """

    model: str
    message: Message
    created_at: str | None = None
    done: bool = True
    done_reason: str | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: JSON = None
    warnings: tuple[str, ...] = ()
    """What the engine did otherwise than asked; goes into the envelope, not into the answer."""


@attrs.frozen(kw_only=True)
class EmbedCall:
    """One embedding request: the vectors of `input`, in its order."""

    model: str
    input: tuple[str, ...]
    truncate: bool = True
    dimensions: int | None = None
    options: Mapping[str, JSON] = attrs.field(factory=dict)
    keep_alive: float | str | None = None


@attrs.frozen(kw_only=True)
class EmbedAnswer:
    """The vectors of an `EmbedCall`, one for each input, in order. Durations are nanoseconds."""

    model: str
    embeddings: tuple[tuple[float, ...], ...]
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    warnings: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ModelInfo:
    """What a host tells of a model that it has; `None` where it does not tell."""

    capabilities: frozenset[str] | None = None
    """In Ollama's words: `completion`, `tools`, `thinking`, `vision`, `embedding`."""
    context_length: int | None = None
    """The most tokens that it was made to read."""


@attrs.frozen(kw_only=True)
class HostLimits:
    """How much may be asked of a host at once, and how long it may take; the worker keeps them."""

    max_concurrent: int = 4
    """Calls in flight; best near the server's own parallelism (`OLLAMA_NUM_PARALLEL`)."""
    max_retries: int = 2
    """How often a call that failed before its first token is made again, within the job's time."""
    first_token_timeout: timedelta = timedelta(seconds=120)
    between_tokens_timeout: timedelta = timedelta(seconds=60)
    total_timeout: timedelta = timedelta(seconds=300)
    load_timeout: timedelta = timedelta(minutes=15)
    """A load has a clock of its own: it belongs to the worker, and no job's time ends it."""
    circuit: CircuitLimits | None = attrs.field(factory=CircuitLimits)
    """When calls are kept away from the host, or from one of its models; `None`: never."""


class Host(abc.ABC):
    """One server of an engine.

    Methods raise `EngineError` for whatever the server or the connection does wrong, and
    nothing else; they keep no clocks except for connecting, since the caller has them all.
    Cancelling a method must close its connection, so that the server stops working.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """A short label for logs and metrics, such as `127.0.0.1:11434`."""

    @property
    @abc.abstractmethod
    def limits(self) -> HostLimits:
        """What the worker keeps to."""

    @abc.abstractmethod
    async def chat(self, call: ChatCall, on_chunk: Callable[[ChatChunk], None]) -> ChatAnswer:
        """Generate an answer; `on_chunk` is called for each piece as it comes and must not block."""

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Compute the vectors of all inputs; refused where an engine does not override it."""
        words = f"{self.name} computes no embeddings, also not with {call.model!r}"
        raise EngineError(FailureClass.UNSUPPORTED, words)

    @abc.abstractmethod
    async def loaded_models(self) -> frozenset[str]:
        """Return the canonical names of the models in memory; a name that is absent proves nothing."""

    @abc.abstractmethod
    async def load(self, model: str, operation: Operation) -> None:
        """Load `model` and return when it can answer; at once if it is loaded."""

    @abc.abstractmethod
    async def check(self) -> None:
        """Raise `EngineError` unless the host answers; never loads a model."""

    async def describe(self, model: str) -> ModelInfo | None:  # noqa: ARG002  # for overriding
        """Tell what `model` can do without loading it; `None` where an engine cannot tell.

        `EngineError`, `MODEL_MISSING`, where the host does not have it.
        """
        return None


class Engine(abc.ABC):
    """What runs models. Entered by the worker after the Redis links, left after the last job."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The engine's name, as in `[worker] engine`."""

    @property
    @abc.abstractmethod
    def hosts(self) -> Sequence[Host]:
        """Its servers; there once it is entered, and fixed from then on."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

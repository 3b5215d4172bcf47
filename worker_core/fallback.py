"""Fallbacks: a second way to answer an engine call after the first failed.

The worker asks its strategies in order. One answers by itself, adjusts the call so that another is
made in its place, or passes. Whatever it does, the job's clock runs on, and a job that was
cancelled is not asked about.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import attrs

from worker_core.model_name import canonical_model_name

if TYPE_CHECKING:
    from types import TracebackType

    from worker_core.engine import JSON, ChatAnswer, ChatCall, EmbedAnswer, EmbedCall, ModelInfo
    from worker_core.errors import EngineError, FailureClass
    from worker_core.job import Job
    from worker_core.redis import Redis

__all__ = [
    "Adjusted",
    "AskedCall",
    "Asker",
    "CallLimits",
    "FailedCall",
    "FailedWay",
    "Fallback",
    "FallbackAnswer",
    "Models",
]


@attrs.frozen(kw_only=True)
class Asker:
    """A job that a call is made for."""

    job: Job
    tenant: str | None
    """Whom the job is for, as `JobType.tenant_of` says: nothing may be shared between tenants."""


@attrs.frozen(kw_only=True)
class AskedCall:
    """A call as a job type made it."""

    call: ChatCall | EmbedCall
    askers: tuple[Asker, ...]
    """Whom it is made for: one of a chat call, of an embedding call one for each input."""
    redis: Redis
    """The worker's own connection."""


@attrs.frozen(kw_only=True)
class FailedWay:
    """One way to an answer that was tried and failed."""

    call: ChatCall | EmbedCall
    error: EngineError
    strategy: str | None
    """Who adjusted it; `None`: it is the job's own call."""


class Models(Protocol):
    """What the worker knows of models, for the operation of the call that failed."""

    def may_run(self, model: str) -> bool:
        """Tell whether a call would be let through now: no circuit stands against the model."""
        ...

    async def describe(self, model: str) -> ModelInfo | None:
        """Return what a host tells of a model, asked for at most once in a while.

        `None` where the engine cannot tell. Raises `EngineError`: `MODEL_MISSING` where no host
        has it, another where none could be asked.
        """
        ...


@attrs.frozen(kw_only=True)
class FailedCall:
    """A call that failed, and what has been tried since."""

    asked: AskedCall
    ways: tuple[FailedWay, ...]
    """In order; the first is the job's own call."""
    time_left: timedelta | None
    """How long its jobs may still run, `None` without a limit; it stands still during admission."""
    models: Models

    @property
    def error(self) -> EngineError:
        """Why the job's own call failed."""
        return self.ways[0].error

    @property
    def tried(self) -> frozenset[str]:
        """The canonical names of the models that have been tried."""
        return frozenset(canonical_model_name(way.call.model) for way in self.ways)


@attrs.frozen(kw_only=True)
class CallLimits:
    """Clocks of a fallback's call; each counts where it is shorter than the host's own."""

    first_token_timeout: timedelta | None = None
    between_tokens_timeout: timedelta | None = None
    total_timeout: timedelta | None = None


@attrs.frozen(kw_only=True)
class Adjusted:
    """Another call to make in place of the one that failed, of the same operation."""

    call: ChatCall | EmbedCall
    limits: CallLimits = attrs.field(factory=CallLimits)
    detail: Mapping[str, JSON] = attrs.field(factory=dict)
    """What the envelope says beside strategy and reason when the call is answered."""


@attrs.frozen(kw_only=True)
class FallbackAnswer:
    """An answer that no call has to be made for."""

    answer: ChatAnswer | EmbedAnswer
    detail: Mapping[str, JSON] = attrs.field(factory=dict)
    """What the envelope says beside strategy and reason."""


class Fallback(abc.ABC):
    """A strategy. Entered by the worker before the first job and left after the last one.

    A strategy that raises is logged and passed over. Several jobs may ask it at the same time.
    """

    name: ClassVar[str]
    """Names it in settings, envelopes, logs and metrics; unique among all enabled plugins."""
    handles: frozenset[FailureClass]
    """The failures that it may answer; it is not asked about others."""

    async def before(self, asked: AskedCall) -> FallbackAnswer | None:  # noqa: ARG002  # for overriding
        """Answer a call before it is made at all; `None`, the default, lets it be made."""
        return None

    @abc.abstractmethod
    async def answer(self, failed: FailedCall) -> FallbackAnswer | Adjusted | None:
        """Answer a call that failed, adjust it, or pass with `None`.

        When the adjusted call fails too, the strategy is asked again, with that among `ways`; at
        most 8 calls are adjusted for one that failed, by all strategies together.
        """

    async def answered(self, asked: AskedCall, answer: ChatAnswer | EmbedAnswer) -> None:  # noqa: B027  # for overriding
        """Learn that the job's own call was answered. The job waits for this, 250 ms at most."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

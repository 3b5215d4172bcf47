"""`JobContext.engine` where there is no engine."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from worker_core.errors import EngineError, FailureClass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from worker_core.engine import (
        ChatAnswer,
        ChatCall,
        ChatChunk,
        EmbedAnswer,
        EmbedCall,
        EngineProgress,
    )
    from worker_core.job import JobContext

__all__ = ["NoEngine"]


class NoEngine:
    """`JobContext.engine` of a worker without an engine."""

    def waiting(self, model: str) -> AbstractContextManager[None]:  # noqa: ARG002  # the protocol's
        """Do nothing: whatever is waited for fails at once."""
        return nullcontext()

    async def chat(
        self,
        call: ChatCall,
        *,
        on_progress: Callable[[EngineProgress], None] | None = None,  # noqa: ARG002  # the protocol's
        on_chunk: Callable[[ChatChunk], None] | None = None,  # noqa: ARG002  # the protocol's
    ) -> ChatAnswer:
        """Raise `EngineError`."""
        raise _no_engine(call.model)

    async def embed(
        self,
        call: EmbedCall,
        *,
        together_with: Sequence[JobContext] = (),  # noqa: ARG002  # the protocol's
    ) -> EmbedAnswer:
        """Raise `EngineError`."""
        raise _no_engine(call.model)


def _no_engine(model: str) -> EngineError:
    return EngineError(
        FailureClass.UNREACHABLE,
        f"nothing runs {model!r}: this worker has no engine; set [worker] engine, or --engine",
    )

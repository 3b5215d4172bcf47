"""What a chat call puts out while it is made: its pieces, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_core.engine import ChatAnswer, ChatChunk, EngineProgress, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ChatOutput"]


class ChatOutput:
    """Hands on what comes, of one way to the answer after the other."""

    def __init__(
        self,
        report: Callable[[EngineProgress], None],
        on_chunk: Callable[[ChatChunk], None] | None,
    ) -> None:
        self.report = report
        self._on_chunk = on_chunk
        self._tokens = 0

    def begin_anew(self) -> None:
        """Take back what has been put out, if anything has."""
        if self._tokens and self._on_chunk is not None:
            self._on_chunk(ChatChunk(restart=True))
        self._tokens = 0

    def take(self, chunk: ChatChunk) -> None:
        """Put out a piece."""
        self._tokens += 1
        self.report(EngineProgress(Phase.GENERATING, self._tokens))
        if self._on_chunk is not None:
            self._on_chunk(chunk)

    def take_whole(self, answer: ChatAnswer) -> None:
        """Put out an answer that is there already, as one piece."""
        self.begin_anew()
        message = answer.message
        self.take(ChatChunk(message.content, message.thinking or "", message.tool_calls or ()))

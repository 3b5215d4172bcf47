"""How a chat job runs."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from worker_core import (
    ChatAnswer,
    EngineError,
    EngineProgress,
    FailureClass,
    Fault,
    InvalidRequest,
    JobContext,
    JobType,
    QueueSpec,
)
from worker_core.model_name import is_model_in
from worker_core.request_fields import tenant_in
from worker_core_chat.request import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker_core_chat.settings import ChatSettings

__all__ = ["ChatJobType"]


class ChatJobType(JobType[ChatRequest]):
    """Answers one conversation; the answer has the form of Ollama's `/api/chat`."""

    name: ClassVar[str] = "chat"
    request: ClassVar[type[ChatRequest]] = ChatRequest

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        self.timeout = settings.timeout

    @property
    def queues(self) -> Sequence[QueueSpec]:
        """The queues of the settings."""
        return self._settings.queues

    def timeout_of(self, request: ChatRequest) -> timedelta | None:
        """Return what the job asks for."""
        return request.time_limit

    def tenant_of(self, request: ChatRequest) -> str | None:
        """Return `metadata.tenant`."""
        return tenant_in(request.metadata)

    async def run(self, request: ChatRequest, context: JobContext) -> ChatAnswer:
        """Generate the answer, publish how far it is, and the answer itself where it is to stream."""
        if request.stream:
            # Nothing yet: readers learn that the job streams, and how it ends if it ends here.
            context.emit("")
        self._check(request)

        def report(progress: EngineProgress) -> None:
            context.progress({"phase": progress.phase.value, "tokens": progress.tokens})

        answer = await context.engine.chat(
            request.as_call(),
            on_progress=report,
            on_chunk=context.emit if request.stream else None,
        )
        if request.format is not None:
            _check_json(answer)
        return answer

    def _check(self, request: ChatRequest) -> None:
        faults = []
        allowed = self._settings.allowed_models
        if allowed is not None and not is_model_in(request.model, allowed):
            faults.append(
                Fault(
                    "model",
                    f"{request.model[:100]!r} is not allowed; allowed are: {', '.join(allowed)}",
                )
            )
        if request.prompt_chars > self._settings.max_prompt_chars:
            faults.append(
                Fault(
                    "messages",
                    f"{request.prompt_chars} characters are over the limit of "
                    f"{self._settings.max_prompt_chars} (plugins.chat.max_prompt_chars)",
                )
            )
        if faults:
            raise InvalidRequest(faults)


def _check_json(answer: ChatAnswer) -> None:
    """Refuse an answer that is not the JSON asked for: `format` constrains a model, no more."""
    if answer.message.tool_calls and not answer.message.content:
        return
    try:
        json.loads(answer.message.content)
    except (ValueError, RecursionError):
        # The answer itself stays out of the error: it may be private.
        cut = " (it was cut off: done_reason is length)" if answer.done_reason == "length" else ""
        raise EngineError(
            FailureClass.INCOMPLETE, f"the answer is not the JSON that format asks for{cut}"
        ) from None

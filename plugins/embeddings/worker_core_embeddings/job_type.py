"""How an embedding job runs: its inputs share calls with those of other jobs."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, ClassVar, Self

import attrs

from worker_core import (
    EngineError,
    FailureClass,
    Fault,
    InvalidRequest,
    JobContext,
    JobType,
    QueueSpec,
)
from worker_core.batching import Batcher, Blame
from worker_core.request_fields import disallowed_model, tenant_in
from worker_core_embeddings.request import CallKind, EmbeddingsRequest
from worker_core_embeddings.vectors import Vector, as_base64, check_vectors, dimension_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta
    from types import TracebackType

    from worker_core_embeddings.settings import EmbeddingsSettings

__all__ = ["EmbeddingsJobType"]


@attrs.frozen(eq=False)
class _Piece:
    """Some of a job's inputs: as many as fit into a call."""

    context: JobContext
    texts: tuple[str, ...]
    begin: int
    """The index of the first among the job's inputs."""
    alone: bool
    """Whether the job has one input only."""

    @property
    def halves(self) -> tuple[_Piece, _Piece]:
        """The same in two pieces."""
        middle = len(self.texts) // 2
        return (
            attrs.evolve(self, texts=self.texts[:middle]),
            attrs.evolve(self, texts=self.texts[middle:], begin=self.begin + middle),
        )


@attrs.frozen
class _Answer:
    """The vectors of a piece, in order, and the model as the engine named it."""

    model: str
    vectors: tuple[Vector, ...]


class EmbeddingsJobType(JobType[EmbeddingsRequest]):
    """Computes the vectors of a job's inputs; the answer has the form of Ollama's `/api/embed`."""

    name: ClassVar[str] = "embeddings"
    request: ClassVar[type[EmbeddingsRequest]] = EmbeddingsRequest

    def __init__(self, settings: EmbeddingsSettings) -> None:
        self._settings = settings
        self._queues = settings.slotted_queues
        self.timeout = settings.timeout
        self._batcher: Batcher[CallKind, _Piece, _Answer] = Batcher(
            _call,
            batch_size=settings.batch_size,
            batch_timeout=settings.batch_timeout,
            slots={queue.name: queue.concurrency for queue in self._queues},
            blame=_blame,
        )

    async def __aenter__(self) -> Self:
        await self._batcher.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._batcher.__aexit__(kind, error, trace)  # noqa: ASYNC102  # its tasks are cancelled first

    @property
    def queues(self) -> Sequence[QueueSpec]:
        """The queues of the settings, with slots enough for a batch."""
        return self._queues

    def timeout_of(self, request: EmbeddingsRequest) -> timedelta | None:
        """Return what the job asks for."""
        return request.time_limit

    def tenant_of(self, request: EmbeddingsRequest) -> str | None:
        """Return `metadata.tenant`."""
        return tenant_in(request.metadata)

    def nothing_waits(self, queue: str) -> None:
        """Let no call wait for jobs that there are none of."""
        self._batcher.nothing_waits(queue)

    async def run(self, request: EmbeddingsRequest, context: JobContext) -> dict[str, object]:
        """Compute the vectors, and publish how far a job of several calls is."""
        self._check(request)
        texts, kind = request.texts, request.kind
        size = self._settings.batch_size
        answers: list[_Answer] = []
        for begin in range(0, len(texts), size):
            part = texts[begin : begin + size]
            piece = _Piece(context, part, begin, alone=len(texts) == 1)
            answers.append(await self._embed(kind, piece))
            if len(texts) > size:
                context.progress({"done": begin + len(part), "total": len(texts)})
        vectors = list(chain.from_iterable(answer.vectors for answer in answers))
        written: Sequence[object] = vectors
        if request.encoding_format == "base64":
            written = [as_base64(vector) for vector in vectors]
        return {
            "model": _one_model(answers),
            "embeddings": written,
            "dimensions": dimension_of(vectors, request.model),
        }

    async def _embed(self, kind: CallKind, piece: _Piece) -> _Answer:
        """Return the vectors of a piece; an input that the engine refuses is found and named."""
        try:
            if not self._settings.batch_enabled:
                (answer,) = await _call(kind, [piece])
                return answer
            context, units = piece.context, len(piece.texts)
            with context.engine.waiting(kind.model):
                return await self._batcher.submit(kind, piece, queue=context.job.queue, units=units)
        except EngineError as error:
            if error.failure is not FailureClass.BAD_INPUT or piece.alone:
                raise
            if len(piece.texts) == 1:
                at = f"input[{piece.begin}]: {error.message}"
                raise EngineError(error.failure, at, status=error.status) from error
        first, second = [await self._embed(kind, half) for half in piece.halves]
        return _Answer(_one_model((first, second)), first.vectors + second.vectors)

    def _check(self, request: EmbeddingsRequest) -> None:
        faults = [
            *disallowed_model(request.model, self._settings.allowed_models),
            *self._oversized(request.texts),
        ]
        if faults:
            raise InvalidRequest(faults)

    def _oversized(self, texts: Sequence[str]) -> Iterator[Fault]:
        settings = self._settings
        if len(texts) > settings.max_inputs:
            yield Fault(
                "input",
                f"{len(texts)} texts are over the limit of "
                f"{settings.max_inputs} (plugins.embeddings.max_inputs)",
            )
        for index, text in enumerate(texts):
            if len(text) > settings.max_input_chars:
                yield Fault(
                    f"input[{index}]",
                    f"{len(text)} characters are over the limit of "
                    f"{settings.max_input_chars} (plugins.embeddings.max_input_chars)",
                )


def _one_model(answers: Sequence[_Answer]) -> str:
    """Return the model that all vectors of a job are of: those of several cannot be compared."""
    models = sorted({answer.model for answer in answers})
    if len(models) > 1:
        words = f"a part of the vectors is of another model: {', '.join(models)}"
        raise EngineError(FailureClass.INCOMPLETE, words)
    return models[0]


async def _call(kind: CallKind, pieces: Sequence[_Piece]) -> list[_Answer]:
    """Compute the vectors of all pieces in one call to the engine."""
    texts = tuple(chain.from_iterable(piece.texts for piece in pieces))
    owners = [piece.context for piece in pieces for _ in piece.texts]
    answer = await owners[0].engine.embed(kind.call(texts), together_with=owners)
    vectors = answer.embeddings
    check_vectors(vectors, count=len(texts), dimensions=kind.dimensions, model=kind.model)
    answers, begin = [], 0
    for piece in pieces:
        end = begin + len(piece.texts)
        answers.append(_Answer(answer.model, vectors[begin:end]))
        begin = end
    return answers


def _blame(error: Exception) -> Blame:
    """Say whether one input may have made a call fail for all."""
    if not isinstance(error, EngineError):
        return Blame.CALL
    match error.failure:
        case FailureClass.BAD_INPUT:
            return Blame.ITEM
        case FailureClass.INCOMPLETE | FailureClass.CRASHED:
            # Vectors that are none, and runners that die, may be one input's doing.
            return Blame.UNCLEAR
        case (
            FailureClass.MODEL_MISSING
            | FailureClass.UNSUPPORTED
            | FailureClass.BUSY
            | FailureClass.UNREACHABLE
            | FailureClass.TIMEOUT
            | FailureClass.OUT_OF_MEMORY
            | FailureClass.UNAUTHORIZED
            | FailureClass.CIRCUIT_OPEN
        ):
            return Blame.CALL

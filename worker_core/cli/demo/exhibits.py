"""What the demo shows: each job, how it is followed, and how its end is judged."""

from __future__ import annotations

import abc
import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from worker_core.client import (
    BatchItem,
    CancelOutcome,
    ClientError,
    ItemStatus,
    TokenChunk,
    TokenRestart,
)
from worker_core.errors import WorkerCoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker_core.client import Client, JobRef, Result
    from worker_core.engine import JSON

__all__ = ["Exhibit", "exhibits"]

_LONG = timedelta(hours=1)
"""The demo as a whole has a time; no wait needs one of its own."""
_CANCEL_WITHIN = timedelta(seconds=30)
_PIECES_BEFORE_CANCEL = 5


@attrs.define(eq=False)
class Exhibit(abc.ABC):
    """One job of the demo, and what is known of it."""

    kind: str
    prompt: str
    """What it asks, for people."""
    ref: JobRef | None = attrs.field(default=None, init=False)
    state: str = attrs.field(default="waiting", init=False)
    tokens: int = attrs.field(default=0, init=False)
    answer: str = attrs.field(default="", init=False)
    """The answer in words, or why there is none."""
    result: Result | None = attrs.field(default=None, init=False)
    good: bool = attrs.field(default=False, init=False)
    """Whether it has ended as it must."""
    ended: bool = attrs.field(default=False, init=False)

    async def show(self, client: Client) -> None:
        """Put the job on its queue and follow it to its end."""
        try:
            self.good = await self._run(client)
        except (ClientError, WorkerCoreError) as error:
            self.answer = str(error)
        self.ended = True

    def give_up(self) -> None:
        """Say of a job that has not ended that it has not."""
        if not self.ended:
            self.ended = True
            self.answer = "not answered in time"

    @abc.abstractmethod
    async def _run(self, client: Client) -> bool:
        """Return whether all went as it must."""

    async def _await_result(self, client: Client, ref: JobRef) -> Result:
        self.ref = ref
        result = await client.result(ref, timeout=_LONG, on_progress=self._heard)
        self.result, self.tokens = result, result.usage.completion_tokens
        return result

    def _heard(self, progress: JSON) -> None:
        """Take in how far the job is."""
        match progress:
            case {"phase": str(phase), "tokens": int(tokens)}:
                self.state, self.tokens = phase, tokens
            case {"done": int(done), "total": int(total)}:
                self.state = f"{done} of {total}"
            case _:
                pass


@attrs.define(eq=False)
class _Chat(Exhibit):
    """A prompt whose answer is sure: small models complete it, larger ones answer it."""

    model: str
    expected: str
    """A regular expression for what the answer must hold."""

    async def _run(self, client: Client) -> bool:
        ref = await client.submit("chat", _chat(self.model, self.prompt))
        result = await self._await_result(client, ref)
        self.answer = (result.text or "").strip()
        return bool(re.search(self.expected, self.answer, re.IGNORECASE))


@attrs.define(eq=False)
class _Streamed(Exhibit):
    """An answer that is read piece by piece as it is generated."""

    model: str

    async def _run(self, client: Client) -> bool:
        asked = {**_chat(self.model, self.prompt, max_tokens=32), "stream": True}
        self.ref = ref = await client.submit("chat", asked)
        pieces = 0
        async for item in client.tokens(ref):
            match item:
                case TokenChunk():
                    self.state = "streaming"
                    self.answer += item.content
                    pieces += 1
                case TokenRestart():
                    self.answer = ""
                case _:
                    pass
        result = await self._await_result(client, ref)
        # What was read as it came is the answer, and it came in more than one piece.
        return pieces > 1 and self.answer == result.text


@attrs.define(eq=False)
class _Vectors(Exhibit):
    """Texts of which two say the same: their vectors are the nearest."""

    model: str
    texts: tuple[str, str, str]
    """The first two say the same."""

    async def _run(self, client: Client) -> bool:
        data: JSON = {"model": self.model, "input": list(self.texts)}
        result = await self._await_result(client, await client.submit("embeddings", data))
        one, same, other = _vectors_of(result)
        near, far = _cosine(one, same), _cosine(one, other)
        self.answer = f"{len(one)} numbers; {near:.2f} > {far:.2f}"
        return near > far


@attrs.define(eq=False)
class _Cancelled(Exhibit):
    """A job that would go on for long, cancelled as it generates."""

    model: str

    async def _run(self, client: Client) -> bool:
        outcome: CancelOutcome | None = None
        pieces = 0
        asked = _chat(self.model, self.prompt, max_tokens=800, stop=None)
        self.ref = ref = await client.submit("chat", {**asked, "stream": True})
        async for item in client.tokens(ref):
            if not isinstance(item, TokenChunk):
                continue
            pieces += 1
            self.state, self.answer = "streaming", self.answer + item.content
            if pieces == _PIECES_BEFORE_CANCEL:
                self.state = "cancelling"
                outcome = await client.cancel(ref, wait=_CANCEL_WITHIN)
        view = await client.get(ref)
        self.answer = f"cancelled at{self.answer[-12:]}"
        return (
            outcome is CancelOutcome.CANCELLED
            and view is not None
            and view.failed_reason == "cancelled"
        )


@attrs.define(eq=False)
class _Batch(Exhibit):
    """Many requests in one job, each with its own outcome."""

    items: tuple[BatchItem, ...]

    async def _run(self, client: Client) -> bool:
        ref = await client.submit_batch(self.items)
        await self._await_result(client, ref)
        outcomes = [item.status async for item in client.batch_items(ref)]
        done = outcomes.count(ItemStatus.COMPLETED)
        self.answer = f"{done} of {len(self.items)} items completed"
        return done == len(self.items)


def exhibits(model: str, embed_model: str) -> Sequence[Exhibit]:
    """Return what the demo shows, in the order of its table."""
    questions = (
        ("The capital of Italy is Rome. The capital of France is", r"\bparis\b"),
        ("Two plus two equals", r"\bfour\b|\b4\b"),
        ("The opposite of hot is", r"\bcold\b"),
        ("Monday, Tuesday, Wednesday,", r"\bthursday\b"),
    )
    texts = (
        "The cat sleeps on the sofa.",
        "The cat is asleep on the couch.",
        "The bank raised its interest rates.",
    )
    prompts = ("Roses are red, violets are", "To be or not to be, that is the")
    items = (
        *(
            BatchItem(f"chat-{number}", "chat", _chat(model, prompt))
            for number, prompt in enumerate(prompts)
        ),
        BatchItem("vectors", "embeddings", {"model": embed_model, "input": list(texts)}),
    )
    return (
        *(_Chat("chat", prompt, model, expected) for prompt, expected in questions),
        _Streamed("streamed", "Once upon a time there was", model),
        _Cancelled("cancelled", "1, 2, 3, 4, 5, 6, 7,", model),
        _Vectors("embeddings", "cat on sofa, couch; a bank", embed_model, texts),
        _Batch("batch", "two chats and embeddings", items),
    )


def _chat(
    model: str, prompt: str, *, max_tokens: int = 24, stop: str | None = "\n"
) -> dict[str, JSON]:
    # A base model goes on for ever; the first line is the answer.
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "stop": stop,
    }


def _vectors_of(result: Result) -> list[list[float]]:
    match result.answer:
        case {"embeddings": [[*_], *_] as vectors}:
            return [[float(number) for number in vector] for vector in vectors]  # type: ignore[union-attr, arg-type]  # JSON
        case _:
            return []


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (
        math.hypot(*one) * math.hypot(*other)
    )

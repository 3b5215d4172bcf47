"""What holds for every Ollama server: the fake one, and a real one when there is one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from worker_core.engine import ChatCall, ChatChunk, EmbedCall, Message, Operation
from worker_core.errors import EngineError, FailureClass
from worker_core.model_name import canonical_model_name

if TYPE_CHECKING:
    from conftest import Server
    from worker_core_ollama.host import OllamaHost

    from worker_core.engine import JSON, ChatAnswer, Host


async def ask(
    host: Host, model: str, text: str, **options: JSON
) -> tuple[ChatAnswer, list[ChatChunk]]:
    chunks: list[ChatChunk] = []
    call = ChatCall(
        model=model, messages=(Message("user", text),), options={"temperature": 0, **options}
    )
    return await host.chat(call, chunks.append), chunks


async def test_it_answers_in_pieces_and_as_a_whole(any_host: OllamaHost, server: Server) -> None:
    answer, chunks = await ask(
        any_host, server.chat_model, "Count from one to five.", num_predict=40
    )
    assert answer.done
    assert answer.done_reason in {"stop", "length"}
    assert answer.model == server.chat_model
    said = answer.message.content + (answer.message.thinking or "")
    assert said
    assert len(chunks) > 1
    assert "".join(chunk.content for chunk in chunks) == answer.message.content
    assert answer.eval_count
    assert answer.prompt_eval_count
    assert answer.total_duration
    assert answer.warnings == ()


async def test_num_predict_ends_an_answer(any_host: OllamaHost, server: Server) -> None:
    answer, _ = await ask(any_host, server.chat_model, "Count from one to ninety.", num_predict=2)
    assert answer.done_reason == "length"


async def test_vectors_are_in_order_and_of_length_one(any_host: OllamaHost, server: Server) -> None:
    inputs = ("the first", "the second", "something else altogether")
    answer = await any_host.embed(EmbedCall(model=server.embedding_model, input=inputs))
    assert len(answer.embeddings) == 3
    for vector in answer.embeddings:
        assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-3)
    again = await any_host.embed(EmbedCall(model=server.embedding_model, input=inputs[1:2]))
    assert again.embeddings[0] == pytest.approx(answer.embeddings[1], abs=1e-2)


@pytest.mark.parametrize("operation", list(Operation))
async def test_a_load_ends_loaded(
    any_host: OllamaHost, server: Server, operation: Operation
) -> None:
    model = server.chat_model if operation is Operation.CHAT else server.embedding_model
    await any_host.load(model, operation)
    assert canonical_model_name(model) in await any_host.loaded_models()
    await any_host.load(model, operation)


async def test_a_model_is_described_without_loading_it(
    any_host: OllamaHost, server: Server
) -> None:
    chat = await any_host.describe(server.chat_model)
    assert chat is not None
    assert chat.capabilities is not None
    assert "completion" in chat.capabilities
    assert chat.context_length
    embed = await any_host.describe(server.embedding_model)
    assert embed is not None
    assert embed.capabilities == {"embedding"}
    with pytest.raises(EngineError) as missing:
        await any_host.describe("no-such-model-here")
    assert missing.value.failure is FailureClass.MODEL_MISSING


async def test_it_is_there(any_host: OllamaHost) -> None:
    await any_host.check()


async def test_refusals_are_told_apart(any_host: OllamaHost, server: Server) -> None:
    with pytest.raises(EngineError, match="ollama pull no-such-model-here") as missing:
        await ask(any_host, "no-such-model-here", "hello")
    assert missing.value.failure is FailureClass.MODEL_MISSING
    assert missing.value.status == 404
    with pytest.raises(EngineError) as missing:
        await any_host.embed(EmbedCall(model="no-such-model-here", input=("a",)))
    assert missing.value.failure is FailureClass.MODEL_MISSING
    with pytest.raises(EngineError, match="temperature must be of type float32") as wrong:
        await ask(any_host, server.chat_model, "hello", temperature="hot")
    assert wrong.value.failure is FailureClass.BAD_INPUT
    with pytest.raises(EngineError, match="does not support chat") as unable:
        await ask(any_host, server.embedding_model, "hello")
    assert unable.value.failure is FailureClass.UNSUPPORTED

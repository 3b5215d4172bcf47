"""What users report of Ollama, one symptom at a time, shown by the fake server."""

from __future__ import annotations

from datetime import timedelta
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import anyio
import attrs
import pluggy
import pytest
from worker_core_ollama.engine import OllamaEngine
from worker_core_ollama.settings import OllamaSettings, RunnerProfile

from worker_core import hookspecs
from worker_core.engine import ChatCall, ChatChunk, EmbedCall, Message, Operation
from worker_core.errors import EngineError
from worker_core.errors import FailureClass as F
from worker_core.testing.fake_engine import FakeModel, FaultAction, FaultMoment, ScriptedFault

if TYPE_CHECKING:
    from conftest import ChatCallMaker
    from worker_core_ollama.host import OllamaHost

    from worker_core.testing.fake_engine import FakeEngine, LoggedRequest, RequestLog

EMBED = EmbedCall(model="nomic-embed-text", input=("fine", "poison", "fine too"))


def ignore(_: ChatChunk) -> None:
    """Take a chunk and do nothing with it."""


def nothing_runs(log: RequestLog) -> bool:
    return log.total > 0 and log.in_flight == 0


async def test_a_load_may_take_its_time_and_a_probe_does_not_disturb_it(
    fake: FakeEngine, host: OllamaHost
) -> None:
    fake.behaviour = attrs.evolve(fake.behaviour, load_seconds=0.3)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.load, "llama3", Operation.CHAT)
        await fake.log.wait_until(lambda _: fake.loading is not None)
        await host.check()
        assert await host.loaded_models() == frozenset()
        assert fake.loading == "llama3:latest"
    assert await host.loaded_models() == {"llama3:latest"}
    assert (fake.log.loads, fake.log.loads_aborted) == (1, 0)


@pytest.mark.parametrize("after_chunks", [0, 2])
async def test_cancelling_is_seen_by_the_server(
    fake: FakeEngine, host: OllamaHost, chat_call: ChatCallMaker, after_chunks: int
) -> None:
    fake.script(ScriptedFault(action=FaultAction.HANG, after_chunks=after_chunks))
    chunks: list[ChatChunk] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.chat, chat_call(), chunks.append)
        await fake.log.wait_until(lambda log: any(entry.fault for entry in log.requests))
        with anyio.fail_after(5):
            while len(chunks) < after_chunks:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await fake.log.wait_until(nothing_runs)
    assert fake.log.requests[-1].disconnected
    # And the model's only slot is free again.
    with anyio.fail_after(5):
        assert (await host.chat(chat_call(), ignore)).done


async def test_cancelling_an_embed_is_seen_too(fake: FakeEngine, host: OllamaHost) -> None:
    fake.behaviour = attrs.evolve(fake.behaviour, embed_call_seconds=60.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.embed, EMBED)
        await fake.log.wait_until(lambda log: log.in_flight == 1)
        tasks.cancel_scope.cancel()
    await fake.log.wait_until(nothing_runs)
    assert fake.log.requests[-1].disconnected


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (ScriptedFault(action=FaultAction.STATUS, status=503, error="server busy, please try again.  maximum pending requests exceeded"), F.BUSY),
        (ScriptedFault(action=FaultAction.STATUS, delay=0.05, error="llama runner process has terminated: exit status 2"), F.CRASHED),
        (ScriptedFault(action=FaultAction.STATUS, moment=FaultMoment.LOAD, error="model requires more system memory (8.4 GiB) than is available (3.1 GiB)"), F.OUT_OF_MEMORY),
        (ScriptedFault(action=FaultAction.STATUS, status=400, error="request (9 tokens) exceeds the available context size (4 tokens), try increasing it"), F.BAD_INPUT),
        (ScriptedFault(action=FaultAction.STATUS, status=301, error=""), F.UNREACHABLE),
        (ScriptedFault(action=FaultAction.CLOSE), F.UNREACHABLE),
        (ScriptedFault(action=FaultAction.RESET), F.UNREACHABLE),
        (ScriptedFault(action=FaultAction.ERROR_LINE, after_chunks=2), F.CRASHED),
        (ScriptedFault(action=FaultAction.CUT, after_chunks=2), F.INCOMPLETE),
        (ScriptedFault(action=FaultAction.CUT), F.INCOMPLETE),
        (ScriptedFault(action=FaultAction.NOT_DONE), F.INCOMPLETE),
        (ScriptedFault(action=FaultAction.ABORT, after_chunks=2), F.INCOMPLETE),
        (ScriptedFault(action=FaultAction.RESET, after_chunks=2), F.INCOMPLETE),
        (ScriptedFault(action=FaultAction.GARBAGE, after_chunks=1), F.INCOMPLETE),
        (ScriptedFault(action=FaultAction.GARBAGE, after_chunks=1, text="[1, NaN]"), F.INCOMPLETE),
    ],
)  # fmt: skip
async def test_each_fault_of_a_chat_has_its_class(
    fake: FakeEngine,
    host: OllamaHost,
    chat_call: ChatCallMaker,
    fault: ScriptedFault,
    failure: F,
) -> None:
    # A pause between tokens, so that what was sent before the fault has come before it.
    fake.behaviour = attrs.evolve(fake.behaviour, token_seconds=0.01)
    fake.script(fault)
    chunks: list[ChatChunk] = []
    with anyio.fail_after(5), pytest.raises(EngineError) as caught:
        await host.chat(chat_call("a private prompt of some length"), chunks.append)
    assert caught.value.failure is failure
    assert host.name in str(caught.value)
    assert "private" not in str(caught.value)
    assert len(chunks) == (6 if fault.action is FaultAction.NOT_DONE else fault.after_chunks)
    await fake.log.wait_until(nothing_runs)
    assert (await host.chat(chat_call(), ignore)).message.content == "one two three"


async def test_generating_is_refused_while_probes_are_answered(
    fake: FakeEngine, host: OllamaHost, chat_call: ChatCallMaker
) -> None:
    fake.script(ScriptedFault(action=FaultAction.STATUS, method="POST", status=503, count=None))
    await host.check()
    with pytest.raises(EngineError) as caught:
        await host.chat(chat_call(), ignore)
    assert caught.value.failure is F.BUSY


async def test_an_answer_is_whole_though_the_stream_does_not_end(
    fake: FakeEngine, host: OllamaHost, chat_call: ChatCallMaker
) -> None:
    end = '{"model": "llama3", "message": {"content": "!"}, "done": true, "done_reason": "stop"}'
    fake.behaviour = attrs.evolve(fake.behaviour, token_seconds=5.0)
    fake.script(ScriptedFault(action=FaultAction.GARBAGE, text=end))
    with anyio.fail_after(3):
        answer = await host.chat(chat_call(), ignore)
    assert answer.message.content == "!"
    await fake.log.wait_until(nothing_runs)


async def test_one_bad_input_is_found_by_bisecting(fake: FakeEngine, host: OllamaHost) -> None:
    error = "failed to encode response: json: unsupported value: NaN"
    fake.script(
        ScriptedFault(action=FaultAction.STATUS, contains="poison", error=error, count=None)
    )
    with pytest.raises(EngineError) as caught:
        await host.embed(EMBED)
    assert caught.value.failure is F.BAD_INPUT
    good = await host.embed(attrs.evolve(EMBED, input=("fine", "fine too")))
    assert len(good.embeddings) == 2


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (ScriptedFault(action=FaultAction.CUT, after_chunks=2), F.INCOMPLETE),
        (ScriptedFault(action=FaultAction.GARBAGE), F.INCOMPLETE),
        (ScriptedFault(action=FaultAction.ABORT), F.UNREACHABLE),
        (ScriptedFault(action=FaultAction.STATUS, status=400, error="do embedding request: EOF"), F.CRASHED),
    ],
)  # fmt: skip
async def test_each_fault_of_an_embed_has_its_class(
    fake: FakeEngine, host: OllamaHost, fault: ScriptedFault, failure: F
) -> None:
    fake.script(fault)
    with pytest.raises(EngineError) as caught:
        await host.embed(EMBED)
    assert caught.value.failure is failure
    assert len((await host.embed(EMBED)).embeddings) == 3


async def test_embeddings_keep_their_limit_when_not_to_be_cut(
    fake: FakeEngine, host: OllamaHost
) -> None:
    tiny = FakeModel(name="tiny-embed", capabilities=("embedding",), context_length=2)
    fake.behaviour = attrs.evolve(fake.behaviour, models=(tiny,))
    call = EmbedCall(model="tiny-embed", input=("more words than it takes",), truncate=False)
    with pytest.raises(EngineError, match="longer than the context") as caught:
        await host.embed(call)
    assert not caught.value.retryable


async def test_a_stopping_model_is_not_loaded(fake: FakeEngine, host: OllamaHost) -> None:
    fake.behaviour = attrs.evolve(fake.behaviour, stuck_stopping=("llama3:latest",))
    await host.load("llama3", Operation.CHAT)
    assert await host.loaded_models() == {"llama3:latest"}
    await host.chat(ChatCall(model="llama3", messages=(), keep_alive=0), ignore)
    assert fake.loaded == ("llama3:latest",)
    assert await host.loaded_models() == frozenset()


async def test_other_runner_options_never_reload(fake: FakeEngine) -> None:
    settings = OllamaSettings(base_url=fake.url, runner=RunnerProfile(num_ctx=4096, shift=True))
    async with OllamaEngine(settings) as engine:
        host = engine.hosts[0]
        await host.load("llama3", Operation.CHAT)
        for num_ctx in (2048, 8192):
            call = ChatCall(
                model="llama3", messages=(Message("user", "hi"),), options={"num_ctx": num_ctx}
            )
            assert "num_ctx" in (await host.chat(call, ignore)).warnings[0]
    assert (fake.log.loads, fake.log.reloads) == (1, 0)


async def test_loopback_needs_no_proxy(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with OllamaEngine(OllamaSettings(base_url=fake.url)) as engine:
        await engine.hosts[0].check()


async def test_the_key_is_sent_and_a_wrong_one_is_told(fake: FakeEngine) -> None:
    fake.behaviour = attrs.evolve(fake.behaviour, api_key="sesame")
    async with OllamaEngine(OllamaSettings(base_url=fake.url, api_key="sesame")) as engine:
        await engine.hosts[0].check()
    async with OllamaEngine(OllamaSettings(base_url=fake.url)) as engine:
        with pytest.raises(EngineError, match="OLLAMA_API_KEY") as caught:
            await engine.hosts[0].check()
    assert caught.value.failure is F.UNAUTHORIZED


async def test_nobody_there() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    await listener.aclose()
    settings = OllamaSettings(
        base_url=f"http://127.0.0.1:{port}", connect_timeout=timedelta(seconds=1)
    )
    async with OllamaEngine(settings) as engine:
        host = engine.hosts[0]
        for call in (host.check, host.loaded_models):
            with pytest.raises(EngineError, match="is Ollama running") as caught:
                await call()
            assert caught.value.failure is F.UNREACHABLE


async def test_another_server_at_that_address(fake: FakeEngine) -> None:
    settings = OllamaSettings(base_url=f"{fake.url}/v1/")
    async with OllamaEngine(settings) as engine:
        with pytest.raises(EngineError, match="is base_url an Ollama server's") as caught:
            await engine.hosts[0].check()
    assert caught.value.failure is F.UNREACHABLE


async def test_many_at_once_share_connections(
    fake: FakeEngine, host: OllamaHost, chat_call: ChatCallMaker
) -> None:
    fake.behaviour = attrs.evolve(fake.behaviour, parallel=8)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(host.chat, chat_call(), ignore)
    finished: list[LoggedRequest] = fake.log.select("/api/chat")
    assert len(finished) == 20
    assert not any(entry.disconnected for entry in finished)


def test_the_plugin_provides_the_engine() -> None:
    (entry,) = entry_points(group="worker_core.plugins", name="ollama")
    plugin = entry.load()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin(plugin.Settings()))
    ((engine,),) = manager.hook.worker_core_engines()
    assert engine.name == "ollama"

"""Requests and event streams, without a process."""

from __future__ import annotations

import itertools
from importlib.metadata import entry_points

import orjson
import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_core_llamacpp.completion import CompletionReader, completion_request, prompt_of
from worker_core_llamacpp.left_out import left_out

from worker_core import hookspecs
from worker_core.engine import JSON, ChatAnswer, ChatCall, ChatChunk, Message
from worker_core.errors import EngineError, FailureClass

LAST = {
    "content": "",
    "stop": True,
    "stop_type": "limit",
    "tokens_predicted": 2,
    "tokens_evaluated": 5,
    "timings": {"prompt_ms": 1.5, "predicted_ms": 20, "cache_n": 0},
    "prompt": "never looked at",
}
HELLO = (Message("user", "hello"),)


def events(*values: object) -> bytes:
    return b"".join(b"data: " + orjson.dumps(value) + b"\n\n" for value in values)


def read(*parts: bytes) -> tuple[ChatAnswer, list[ChatChunk]]:
    chunks: list[ChatChunk] = []
    reader = CompletionReader("m", chunks.append)
    for part in parts:
        reader.feed(part)
    return reader.finish(7, ()), chunks


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=5),
    cuts=st.lists(st.integers(0, 800), max_size=20),
)
def test_the_network_may_cut_anywhere(texts: list[str], cuts: list[int]) -> None:
    whole = b": ping\n\n" + events(*({"content": text, "stop": False} for text in texts), LAST)
    places = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
    parts = [whole[a:b] for a, b in itertools.pairwise(places)]
    answer, chunks = read(*parts)
    assert (answer, chunks) == read(whole)
    assert answer.message.content == "".join(texts)
    assert [chunk.content for chunk in chunks] == [text for text in texts if text]


def test_counts_and_durations_are_ollamas() -> None:
    answer, _ = read(events({"content": " four", "stop": False}, LAST))
    assert answer.done_reason == "length"
    assert (answer.prompt_eval_count, answer.eval_count) == (5, 2)
    assert (answer.prompt_eval_duration, answer.eval_duration) == (1_500_000, 20_000_000)
    assert answer.total_duration == 7
    assert read(events({**LAST, "stop_type": "eos"}))[0].done_reason == "stop"


@pytest.mark.parametrize(
    ("raw", "failure"),
    [
        (b"", FailureClass.INCOMPLETE),
        (events({"content": "a", "stop": False}), FailureClass.INCOMPLETE),
        (b"data: {no json\n", FailureClass.INCOMPLETE),
        (b'data: {"content": 5}\n', FailureClass.INCOMPLETE),
        (b'error: {"code": 500}\n', FailureClass.CRASHED),
        (events({"error": {"code": 500, "message": "no"}}), FailureClass.CRASHED),
    ],
)
def test_broken_streams_are_no_answers(raw: bytes, failure: FailureClass) -> None:
    with pytest.raises(EngineError) as caught:
        read(raw)
    assert caught.value.failure is failure


def test_options_are_translated() -> None:
    options: dict[str, JSON] = {
        "temperature": 0,
        "num_predict": 3,
        "stop": "\n",
        "seed": 1,
        "unknown": 1,
    }
    body, warnings = completion_request(ChatCall(model="m", messages=HELLO, options=options), 128)
    assert body == {
        "temperature": 0,
        "seed": 1,
        "stop": ["\n"],
        "n_predict": 3,
        "prompt": "hello",
        "stream": True,
    }
    assert warnings == ()
    call = ChatCall(model="m", messages=HELLO, options={"num_ctx": 9}, format="json", keep_alive=5)
    body, warnings = completion_request(call, 128)
    assert (body["n_predict"], body["json_schema"]) == (128, {})
    assert warnings == left_out(call) != ()


def test_the_prompt_is_the_text_itself() -> None:
    assert prompt_of(HELLO) == "hello"
    assert prompt_of((Message("system", "a"), Message("user", "b"))) == "a\nb"


@pytest.mark.parametrize(
    ("call", "failure"),
    [
        (ChatCall(model="m", messages=HELLO, tools=({},)), FailureClass.UNSUPPORTED),
        (ChatCall(model="m", messages=HELLO, think=True), FailureClass.UNSUPPORTED),
        (ChatCall(model="m", messages=(Message("user", images=("aGk=",)),)), FailureClass.UNSUPPORTED),
        (ChatCall(model="m", messages=HELLO, format="xml"), FailureClass.BAD_INPUT),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(call: ChatCall, failure: FailureClass) -> None:
    with pytest.raises(EngineError) as caught:
        completion_request(call, 128)
    assert caught.value.failure is failure


def test_the_plugin_provides_the_engine() -> None:
    (entry,) = entry_points(group="worker_core.plugins", name="llamacpp")
    plugin = entry.load()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin(plugin.Settings()))
    ((engine,),) = manager.hook.worker_core_engines()
    assert engine.name == "llamacpp"

"""What is sent: Ollama's fields, the frozen runner profile, and nothing that was not asked."""

from __future__ import annotations

from datetime import timedelta

import pytest
from worker_core_ollama.requests import chat_request, embed_request, load_request, show_request
from worker_core_ollama.settings import OllamaSettings, RunnerProfile

from worker_core.engine import JSON, ChatCall, EmbedCall, Message, Operation

PROFILE = RunnerProfile(num_ctx=8192, shift=False)
HELLO = (Message("user", "hello"),)


def test_a_plain_chat_sends_no_more_than_it_must() -> None:
    sent = chat_request(ChatCall(model="m", messages=HELLO), RunnerProfile())
    assert sent.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
    }
    assert sent.warnings == ()


def test_a_full_chat_sends_everything() -> None:
    tool: JSON = {"type": "function", "function": {"name": "f"}}
    message = Message(
        "tool", "4", images=("aGk=",), tool_calls=({"function": {}},), tool_name="f", thinking="hm"
    )
    call = ChatCall(
        model="m",
        messages=(message,),
        options={"temperature": 0},
        format={"type": "object"},
        tools=(tool,),
        think="high",
        keep_alive=0,
    )
    body = chat_request(call, RunnerProfile()).body
    assert body["messages"] == [
        {
            "role": "tool",
            "content": "4",
            "thinking": "hm",
            "images": ["aGk="],
            "tool_calls": [{"function": {}}],
            "tool_name": "f",
        }
    ]
    assert body["options"] == {"temperature": 0}
    assert (body["format"], body["tools"], body["think"]) == ({"type": "object"}, [tool], "high")
    assert body["keep_alive"] == 0


def test_runner_options_are_alike_for_load_chat_and_embed() -> None:
    bodies = [
        chat_request(ChatCall(model="m", messages=HELLO), PROFILE).body,
        embed_request(EmbedCall(model="m", input=("a",)), PROFILE).body,
        load_request("m", Operation.CHAT, PROFILE).body,
        load_request("m", Operation.EMBED, PROFILE).body,
    ]
    assert [body["options"] for body in bodies] == [{"num_ctx": 8192}] * 4
    assert [body["shift"] for body in bodies] == [False] * 4


def test_a_jobs_runner_options_are_left_out_with_a_warning() -> None:
    options = {"num_ctx": 4096, "num_gpu": 1, "temperature": 0.5}
    sent = chat_request(ChatCall(model="m", messages=HELLO, options=options), PROFILE)
    assert sent.body["options"] == {"temperature": 0.5, "num_ctx": 8192}
    (warning,) = sent.warnings
    assert "num_ctx, num_gpu" in warning
    assert "[plugins.ollama.runner]" in warning
    embed = embed_request(EmbedCall(model="m", input=("a",), options={"num_batch": 1}), PROFILE)
    assert "num_batch" in embed.warnings[0]
    same = chat_request(ChatCall(model="m", messages=HELLO, options={"num_ctx": 8192}), PROFILE)
    assert same.warnings == ()


def test_a_model_is_asked_about_without_loading_it() -> None:
    shown = show_request("m")
    assert (shown.path, shown.body) == ("/api/show", {"model": "m"})


def test_a_load_asks_nothing() -> None:
    chat = load_request("m", Operation.CHAT, RunnerProfile())
    assert (chat.path, chat.body) == ("/api/chat", {"model": "m", "messages": [], "stream": False})
    embed = load_request("m", Operation.EMBED, RunnerProfile())
    assert (embed.path, embed.body) == ("/api/embed", {"model": "m", "input": []})


def test_a_models_own_profile_goes_over_the_common_one() -> None:
    settings = OllamaSettings(
        runner=RunnerProfile(num_ctx=8192, num_thread=4),
        runner_by_model={"Llama3": RunnerProfile(num_ctx=2048)},
    )
    assert settings.runner_of("llama3:latest") == RunnerProfile(num_ctx=2048, num_thread=4)
    assert settings.runner_of("llama3:8b") == RunnerProfile(num_ctx=8192, num_thread=4)


def test_limits_are_the_settings() -> None:
    limits = OllamaSettings(timeout=timedelta(seconds=9), max_concurrent_requests=7).limits
    assert limits.total_timeout == timedelta(seconds=9)
    assert limits.max_concurrent == 7


@pytest.mark.parametrize("url", ["127.0.0.1:11434", "ftp://x", "http://", "http://me:pw@h:1"])
def test_urls_that_cannot_be(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        OllamaSettings(base_url=url)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://[::1]:11434", True),
        ("http://localhost", True),
        ("https://ollama.com", False),
        ("http://10.0.0.5:11434", False),
    ],
)
def test_proxies_are_for_other_machines(url: str, *, loopback: bool) -> None:
    assert OllamaSettings(base_url=url).is_loopback is loopback


def test_the_key_is_not_shown() -> None:
    assert "sesame" not in repr(OllamaSettings(api_key="sesame"))
    with pytest.raises(ValueError, match="api_key") as refused:
        OllamaSettings(api_key="sesame\n")
    assert "sesame" not in str(refused.value)

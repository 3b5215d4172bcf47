"""Chat completions' requests as chat jobs: what is kept, and what is refused by name."""

from __future__ import annotations

import pytest

from worker_core.errors import InvalidRequest
from worker_core.openai_batch.chat_request import chat_data

PIXEL = "iVBORw0KGgo="
WEATHER = {"name": "weather", "description": "Tell it.", "parameters": {"type": "object"}}


def body(**members):
    return {"model": "llama3", "messages": [{"role": "user", "content": "hi"}], **members}


def data(**members):
    """Return the job's data but for model and messages."""
    whole = chat_data(body(**members))
    assert whole.pop("model") == "llama3"
    assert whole.pop("messages")
    return whole


def messages(*of):
    return chat_data({"model": "m", "messages": list(of)})["messages"]


def faults(whole):
    with pytest.raises(InvalidRequest) as caught:
        chat_data(whole)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_the_least_that_can_be_asked():
    assert chat_data(body()) == {"model": "llama3", "messages": [{"role": "user", "content": "hi"}]}


def test_sampling_is_kept():
    members = {"temperature": 0, "top_p": 0.9, "seed": 7, "stop": ["a", "b"]}
    assert data(**members) == members
    assert data(stop="END") == {"stop": "END"}
    assert data(frequency_penalty=0.5, presence_penalty=-1) == {
        "options": {"frequency_penalty": 0.5, "presence_penalty": -1}
    }


def test_both_names_of_the_longest_answer():
    assert data(max_tokens=5) == data(max_completion_tokens=5) == {"max_tokens": 5}
    assert data(max_tokens=5, max_completion_tokens=5) == {"max_tokens": 5}
    assert "max_tokens" in faults(body(max_tokens=5, max_completion_tokens=6))
    # In Ollama's words -1 would be: for ever.
    assert faults(body(max_tokens=-1)) == {"max_tokens": "must be at least 1"}


@pytest.mark.parametrize(
    ("effort", "think"),
    [("none", False), ("minimal", "low"), ("medium", "medium"), ("xhigh", "max")],
)
def test_effort_is_how_much_to_think(effort, think):
    assert data(reasoning_effort=effort) == {"think": think}


def test_formats():
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    strict = {"name": "place", "strict": True, "schema": schema}
    assert data(response_format={"type": "json_schema", "json_schema": strict}) == {
        "format": schema
    }
    assert data(response_format={"type": "json_object"}) == {"format": "json"}
    assert data(response_format={"type": "text"}) == {}
    assert faults(body(response_format={"type": "json_schema"})) == {
        "response_format.json_schema": "missing"
    }


def test_tools_are_offered_unless_none_may_be_called():
    tool = {"type": "function", "function": WEATHER}
    assert data(tools=[tool], tool_choice="auto", parallel_tool_calls=True) == {"tools": [tool]}
    assert data(tools=[tool], tool_choice="none", parallel_tool_calls=False) == {}
    bare = {"type": "function", "function": {"name": "now", "strict": True}}
    assert data(tools=[bare])["tools"][0]["function"] == {
        "name": "now",
        "parameters": {"type": "object", "properties": {}},
    }
    assert "parallel_tool_calls" in faults(body(tools=[tool], parallel_tool_calls=False))
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        assert "tool_choice" in faults(body(tools=[tool], tool_choice=choice))
    assert "tools[0].type" in faults(body(tools=[{**tool, "type": "custom"}]))


def test_calls_and_their_answers_become_ollamas():
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Ghent"}'},
    }
    assert messages(
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "rain"}]},
    ) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "function": {"name": "weather", "arguments": {"city": "Ghent"}}}
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "c1", "tool_name": "weather"},
    ]


@pytest.mark.parametrize("arguments", ["[1]", "{", '"text"'])
def test_arguments_must_be_an_object_written_as_text(arguments):
    call = {"id": "c1", "function": {"name": "weather", "arguments": arguments}}
    found = faults(body(messages=[{"role": "assistant", "tool_calls": [call]}]))
    assert list(found) == ["messages[0].tool_calls[0].function.arguments"]


def test_parts_are_one_message_of_words_and_images():
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "text", "text": "be brief"},
    ]
    assert messages({"role": "developer", "content": "x"}, {"role": "user", "content": parts}) == [
        {"role": "system", "content": "x"},
        {"role": "user", "content": "what is this?\nbe brief", "images": [PIXEL]},
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.com/a.png", "nothing is fetched"),
        ("data:image/png;base64,no base64!", "does not hold base64"),
        ("data:text/plain;base64,aGk=", "an image"),
    ],
)
def test_an_image_must_be_there_itself(url, words):
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    found = faults(body(messages=[{"role": "user", "content": parts}]))
    assert list(found) == ["messages[0].content[0].image_url.url"]
    assert words in str(found)


def test_what_a_model_thought_is_kept():
    for name in ("reasoning", "reasoning_content"):
        said = {"role": "assistant", "content": "4", name: "two and two"}
        assert messages(said) == [{"role": "assistant", "content": "4", "thinking": "two and two"}]


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "assistant", "content": None}, "messages[0].content"),
        ({"role": "function", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": "x", "name": "Ann"}, "messages[0].name"),
        ({"role": "user", "content": "x", "mood": "good"}, "messages[0].mood"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[0].audio"),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
    ],
)
def test_messages_that_cannot_be_kept_are_refused(message, path):
    assert list(faults(body(messages=[message]))) == [path]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", True),
        ("stream", 0),
        ("stream", True),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"50256": -100}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("web_search_options", {}),
        ("verbosity", "low"),
        ("functions", []),
        ("no_such_member", 1),
    ],
)
def test_what_would_change_the_answer_is_refused(name, value):
    assert list(faults(body(**{name: value}))) == [name]


def test_what_asks_for_nothing_passes():
    nothing = {"n": 1, "stream": False, "logprobs": False, "top_logprobs": 0, "logit_bias": {}}
    nothing |= {"modalities": ["text"], "audio": None, "user": "u1", "store": True}
    nothing |= {"service_tier": "flex", "verbosity": "medium", "tools": None, "stop": None}
    assert data(**nothing) == {}
    # Whose request it is matters: answers that are kept are kept apart by it.
    assert data(metadata={"tenant": "a"}) == {"metadata": {"tenant": "a"}}


def test_all_faults_are_told_at_once():
    found = faults({"model": "", "messages": [], "n": 2, "temperature": "hot", "x": 1})
    assert set(found) == {"model", "messages", "n", "temperature", "x"}

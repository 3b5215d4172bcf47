"""Input files: read as streams, every fault by its line, limits, and a change between two readings."""

from __future__ import annotations

import io
import json

import pytest

from worker_core.openai_batch import BadInputFile, Contents, Endpoint, input_file, inspect, items_of


def chat(custom_id, model="m", **members):
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **members}
    return written(custom_id, "/v1/chat/completions", body)


def embeddings(custom_id, texts="x"):
    return written(custom_id, "/v1/embeddings", {"model": "m", "input": texts})


def written(custom_id, url, body):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def file_of(*lines, end="\n"):
    return io.BytesIO("".join(f"{line}{end}" for line in lines).encode())


def refusal(file):
    with pytest.raises(BadInputFile) as caught:
        inspect(file)
    return list(caught.value.lines())


def test_a_good_file_is_described_and_its_items_come_in_order():
    file = file_of(chat("a"), chat("b"))
    contents = inspect(file)
    assert contents == Contents(endpoint=Endpoint.CHAT, requests=2, model="m")
    assert [item.custom_id for item in items_of(file, contents)] == ["a", "b"]


def test_requests_may_ask_several_models():
    assert inspect(file_of(chat("a"), chat("b", model="n"))).model is None


def test_blank_lines_a_mark_and_a_missing_last_line_end_do_no_harm():
    text = "\ufeff" + chat("a") + "\r\n\r\n   \n" + chat("b")
    file = io.BytesIO(text.encode())
    contents = inspect(file)
    assert [item.custom_id for item in items_of(file, contents)] == ["a", "b"]


def test_faults_of_different_lines_are_told_together():
    lines = [chat(f"r{number}") for number in range(1, 11)]
    lines[2] = "{nope"
    lines[6] = lines[6].replace("/v1/chat/completions", "/v1/images")
    lines[8] = chat("r2")
    told = refusal(file_of(*lines))
    assert [line.partition(":")[0] for line in told] == ["line 3", "line 7", "line 9"]
    assert told[0].endswith("column 2 (char 1)")
    assert "/v1/images" in told[1]
    assert "'r2' is that of line 2 too" in told[2]


def test_lines_count_also_where_some_are_blank():
    assert refusal(file_of("", chat("a"), "", "{"))[0].startswith("line 4: ")


def test_the_id_of_a_line_with_another_fault_counts():
    told = refusal(file_of(chat("a", n=2), chat("a")))
    assert told[1] == "line 2: custom_id: 'a' is that of line 1 too"


def test_a_file_is_for_one_endpoint():
    [told] = refusal(file_of(chat("a"), embeddings("b"), chat("c")))
    assert told.startswith("line 2: url: /v1/embeddings is not that of line 1")


def test_a_file_without_requests_is_refused():
    for text in ("", "\n \n"):
        assert refusal(io.BytesIO(text.encode())) == ["the file holds no requests"]


def test_many_faults_are_counted():
    told = refusal(file_of(*["{"] * 150))
    assert len(told) == 101
    assert told[-1] == "and 50 more"


def test_too_many_requests(monkeypatch):
    monkeypatch.setattr(input_file, "MAX_REQUESTS", 2)
    assert refusal(file_of("{", chat("b"), chat("c"), chat("d")))[1:] == [
        "line 3: more than 2 requests"
    ]


def test_too_many_texts_to_be_embedded(monkeypatch):
    monkeypatch.setattr(input_file, "MAX_INPUTS", 3)
    inspect(file_of(embeddings("a", ["x", "y"]), embeddings("b")))
    told = refusal(file_of(embeddings("a", ["x", "y"]), embeddings("b", ["x", "y"])))
    assert told == ["line 2: more than 3 texts to be embedded"]


def test_a_file_that_is_too_large_is_read_no_further(monkeypatch):
    file = file_of(chat("a"), chat("b"), chat("c"))
    size = len(file.getvalue())
    monkeypatch.setattr(input_file, "MAX_BYTES", size)
    inspect(file)
    monkeypatch.setattr(input_file, "MAX_BYTES", size - 1)
    assert refusal(file) == [f"the file is larger than {size - 1} bytes"]


def test_a_line_that_is_too_long_is_skipped_and_told(monkeypatch):
    longest = len(chat("a")) + 1
    monkeypatch.setattr(input_file, "MAX_LINE_BYTES", longest)
    told = refusal(file_of(chat("a"), "x" * 3_000_000, "{", chat("a")))
    assert told[0] == f"line 2: longer than {longest} bytes"
    assert told[1].startswith("line 3: ")
    assert told[2].startswith("line 4: custom_id")
    assert len(refusal(io.BytesIO(b"x" * 3_000_000))) == 1


@pytest.mark.parametrize(
    "after", [[chat("a")], [chat("a"), "{"], [chat("a"), chat("b"), chat("c")], []]
)
def test_a_file_that_changes_between_the_readings_is_refused(after):
    contents = inspect(file_of(chat("a"), chat("b")))
    with pytest.raises(BadInputFile, match="changed"):
        list(items_of(file_of(*after), contents))


def test_how_far_it_is_read_is_told():
    told = []
    file = file_of(chat("a"), chat("b"))
    inspect(file, on_read=told.append)
    assert told == [len(chat("a")) + 1, len(file.getvalue())]

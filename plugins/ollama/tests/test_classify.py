"""The error table, row by row, in the words of several of Ollama's versions."""

from __future__ import annotations

import pytest
from worker_core_ollama.classify import ServerError, classify, engine_error

from worker_core.engine import Operation
from worker_core.errors import FailureClass as F

CHAT, EMBED = Operation.CHAT, Operation.EMBED


@pytest.mark.parametrize(
    ("status", "text", "operation", "failure"),
    [
        (404, "model 'x' not found", CHAT, F.MODEL_MISSING),
        (404, 'model "x" not found, try pulling it first', EMBED, F.MODEL_MISSING),
        (404, "model '' not found", CHAT, F.MODEL_MISSING),
        (400, "model is required", CHAT, F.BAD_INPUT),
        (400, "invalid model name", CHAT, F.BAD_INPUT),
        (400, "missing request body", CHAT, F.BAD_INPUT),
        (400, "invalid character 'x' looking for beginning of value", CHAT, F.BAD_INPUT),
        (400, "json: cannot unmarshal string into Go struct field", CHAT, F.BAD_INPUT),
        (400, 'time: missing unit in duration "-1"', CHAT, F.BAD_INPUT),
        (400, '"nomic-embed-text" does not support chat', CHAT, F.UNSUPPORTED),
        (400, "registry.ollama.ai/library/x:latest does not support tools", CHAT, F.UNSUPPORTED),
        (400, '"x" does not support thinking', CHAT, F.UNSUPPORTED),
        (501, "this model does not support embeddings", EMBED, F.UNSUPPORTED),
        (500, "this model does not support embeddings", EMBED, F.UNSUPPORTED),
        (500, 'option "temperature" must be of type float32', CHAT, F.BAD_INPUT),
        (500, 'invalid format: "xml"; expected "json" or a valid JSON Schema object', CHAT, F.BAD_INPUT),
        (500, "failed to parse grammar", CHAT, F.BAD_INPUT),
        (400, "request (9000 tokens) exceeds the available context size (4096 tokens)", CHAT, F.BAD_INPUT),
        (400, "the input length exceeds the context length", EMBED, F.BAD_INPUT),
        (500, "input length exceeds maximum context length", EMBED, F.BAD_INPUT),
        (400, "invalid input type", EMBED, F.BAD_INPUT),
        (500, "failed to encode response: json: unsupported value: NaN", EMBED, F.BAD_INPUT),
        (400, "do embedding request: Post http://127.0.0.1:4001/embedding: EOF", EMBED, F.CRASHED),
        (400, "something that nobody has seen", EMBED, F.CRASHED),
        (400, "something that nobody has seen", CHAT, F.BAD_INPUT),
        (503, "server busy, please try again.  maximum pending requests exceeded", CHAT, F.BUSY),
        (503, "", CHAT, F.BUSY),
        (429, "you have reached your hourly usage limit", CHAT, F.BUSY),
        (500, "llama runner process has terminated: exit status 2", CHAT, F.CRASHED),
        (500, "llama-server process has terminated: signal: killed", CHAT, F.CRASHED),
        (500, "llama runner process has terminated: cudaMalloc failed: out of memory", CHAT, F.OUT_OF_MEMORY),
        (500, "unable to allocate CUDA0 buffer", CHAT, F.OUT_OF_MEMORY),
        (500, "failed to allocate compute buffers", CHAT, F.OUT_OF_MEMORY),
        (500, "model requires more system memory (8.4 GiB) than is available (3.1 GiB)", CHAT, F.OUT_OF_MEMORY),
        (500, "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check ollama server logs for details", CHAT, F.CRASHED),
        (None, "an error was encountered while running the model: unexpected EOF", CHAT, F.CRASHED),
        (None, "an error was encountered while running the model: CUDA error: out of memory", CHAT, F.OUT_OF_MEMORY),
        (None, "no words that anybody knows", CHAT, F.CRASHED),
        (500, "error parsing tool call: raw='out of memory', err=invalid character", CHAT, F.CRASHED),
        (500, "timed out waiting for llama-server to start - progress 0.40", CHAT, F.TIMEOUT),
        (500, "timed out waiting for llama runner to start: context deadline exceeded", CHAT, F.TIMEOUT),
        (500, "error loading model: unknown model architecture: 'gptoss'", CHAT, F.UNSUPPORTED),
        (500, "unable to load model: blobs/sha256-0", CHAT, F.CRASHED),
        (500, "", CHAT, F.CRASHED),
        (401, "unauthorized", CHAT, F.UNAUTHORIZED),
        (403, "", None, F.UNAUTHORIZED),
        (404, "404 page not found", None, F.UNREACHABLE),
        (405, "405 method not allowed", CHAT, F.UNREACHABLE),
        (301, "", None, F.UNREACHABLE),
        (502, "<html>Bad Gateway</html>", CHAT, F.UNREACHABLE),
        (504, "", CHAT, F.UNREACHABLE),
        (408, "", CHAT, F.TIMEOUT),
        (413, "", CHAT, F.BAD_INPUT),
    ],
)  # fmt: skip
def test_each_wording_has_its_class(
    status: int | None, text: str, operation: Operation | None, failure: F
) -> None:
    assert classify(ServerError(status=status, text=text, operation=operation)) is failure


def test_messages_name_host_model_and_remedy() -> None:
    told = ServerError(status=404, text="model 'phi3' not found", operation=CHAT)
    error = engine_error("gpu1:11434", "phi3", told)
    assert error.message == "gpu1:11434: 'phi3' is not on the server: ollama pull phi3"
    assert error.status == 404
    assert not error.retryable


@pytest.mark.parametrize(
    "text",
    [
        "error parsing tool call: raw='{\"secret\": 1}', err=unexpected end",
        "something odd about 'secret'",
        "something odd about 'a secret which is rather longer than any model name'",
        'invalid format: "secret"; expected',
        "x" * 300 + "secret",
    ],
)
def test_messages_hold_no_text_of_prompts_or_answers(text: str) -> None:
    error = engine_error("h", "m", ServerError(status=500, text=text, operation=CHAT))
    assert "secret" not in str(error)
    assert len(str(error)) < 300

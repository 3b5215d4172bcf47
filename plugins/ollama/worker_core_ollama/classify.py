"""Ollama's errors, by what can be done about them: one table, read from the top.

Wordings change from version to version and are wrapped in one another (a crash while loading may
quote the out-of-memory error that caused it), so each row is a pattern, and the order matters.
What the server said follows only where a row does not say it all, shortened and without what
stands in quotes there: that may be text of a prompt or an answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from worker_core.engine import Operation
from worker_core.errors import EngineError, FailureClass

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ServerError", "classify", "engine_error"]

_QUOTED_CHARACTERS = 160
_IN_QUOTES = re.compile(r"""(["'`]).+?\1""", re.DOTALL)


@attrs.frozen(kw_only=True)
class ServerError:
    """An error as the server gave it."""

    status: int | None
    """`None`: a line within an answer whose status was 200 already."""
    text: str
    operation: Operation | None = None


@attrs.frozen
class _Row:
    failure: FailureClass
    pattern: re.Pattern[str] | None
    """Looked for in the text; `None`: any text."""
    statuses: Sequence[int] | None
    """`None`: any status, or none."""
    advice: str
    """What happened, and what an operator can do; `{said}` quotes the server."""
    operation: Operation | None = None


def _row(
    failure: FailureClass,
    pattern: str | None,
    statuses: Sequence[int] | None,
    advice: str,
    operation: Operation | None = None,
) -> _Row:
    compiled = None if pattern is None else re.compile(pattern, re.IGNORECASE | re.DOTALL)
    return _Row(failure, compiled, statuses, advice, operation)


_F = FailureClass
_ROWS = (
    # First, since it quotes what the model wrote, which may look like anything below.
    _row(_F.CRASHED, r"error parsing tool call", None, "{model!r} wrote a tool call that the server could not read"),
    # Then memory: it stands inside other errors, of loading and of running.
    _row(_F.OUT_OF_MEMORY, r"requires more (system )?memory|out of memory|(failed|unable) to allocate|cudaMalloc failed|insufficient memory", None, "the server has no room for {model!r}: unload other models, use a smaller one or a smaller num_ctx"),
    _row(_F.UNAUTHORIZED, r"^\s*unauthorized\b|invalid api key", None, "the server wants other credentials: check api_key (OLLAMA_API_KEY)"),
    _row(_F.UNAUTHORIZED, None, (401, 403), "the server wants other credentials: check api_key (OLLAMA_API_KEY)"),
    _row(_F.BUSY, r"server busy|maximum pending requests|too many requests|rate limit|usage limit", None, "the server has too many requests waiting: lower max_concurrent_requests or raise OLLAMA_MAX_QUEUE"),
    # What a model cannot do.
    _row(_F.UNSUPPORTED, r"does not support (?P<what>[a-z]{1,24})", None, "{model!r} does not support {what}"),
    _row(_F.UNSUPPORTED, r"unknown model architecture|unsupported model|newer version of ollama|missing data required for image", None, "this version of the server cannot run {model!r}: update Ollama"),
    _row(_F.MODEL_MISSING, r"model ['\"].*['\"] not found|try pulling it first|no such model|pull model manifest|model not found", None, "{model!r} is not on the server: ollama pull {model}"),
    # What the request itself does wrong.
    _row(_F.BAD_INPUT, r"exceeds? the (available )?context|exceeds? (the )?(maximum )?context|input length exceeds|context length exceeded|prompt (is )?too long|input is too (large|long)", None, "the input is longer than the context of {model!r}: shorten it or raise num_ctx in [plugins.ollama.runner]"),
    _row(_F.BAD_INPUT, r"option \W*(?P<option>[a-z_]{1,32})\W* must be of type (?P<type>[a-z0-9 ]{1,16})", None, "option {option} must be of type {type}"),
    _row(_F.BAD_INPUT, r"invalid format|failed to (parse|create|load) grammar|grammar", None, 'the format is neither "json" nor a JSON schema that the server can follow'),
    _row(_F.BAD_INPUT, r"unsupported value: \W*(nan|[+-]?inf)|\bnan\b", None, "{model!r} computes no finite number for this input"),
    _row(_F.BAD_INPUT, r"model is required|invalid model name|invalid input type|missing request body|invalid think value|illegal base64|invalid image|failed to (load|process|decode) (image|audio|inputs)|^json: |invalid character|^time: |invalid options?", None, "the server refuses the request{said}"),
    # What goes wrong with a model that is there.
    _row(_F.TIMEOUT, r"timed out waiting for|deadline exceeded|load(ing)? (has )?(stalled|timed out)|timeout waiting", None, "loading {model!r} stalled on the server: look at its log, or raise OLLAMA_LOAD_TIMEOUT there"),
    _row(_F.CRASHED, r"process has terminated|unexpectedly stopped|no longer running|error was encountered while running|exit status|signal: |segmentation|cuda error|ggml_assert|llama runner|error loading (llama )?(server|model)|unable to load model|completion\W+eof|^eof$|unexpected eof", None, "the server's runner of {model!r} died: look at the server's log{said}"),
    # By status alone.
    _row(_F.BUSY, None, (429, 503), "the server has too much to do{said}"),
    _row(_F.UNREACHABLE, None, (502, 504), "a proxy could not reach the server{said}"),
    _row(_F.UNREACHABLE, None, (404, 405, *range(300, 400)), "the server does not know this call: is base_url an Ollama server's?"),
    _row(_F.TIMEOUT, None, (408,), "the server gave up waiting{said}"),
    _row(_F.UNSUPPORTED, None, (501,), "{model!r} cannot do what is asked of it{said}"),
    # Runner crashes come as 400 from embed, so an unknown 400 there may end well next time.
    _row(_F.CRASHED, None, (400,), "the server failed on {model!r}{said}", Operation.EMBED),
    _row(_F.BAD_INPUT, None, range(400, 500), "the server refuses the request{said}"),
    _row(_F.CRASHED, None, None, "the server failed on {model!r}{said}"),
)  # fmt: skip


def classify(error: ServerError) -> FailureClass:
    """Return how the engine failed."""
    return _match(error)[0].failure


def engine_error(host: str, model: str, error: ServerError) -> EngineError:
    """Return the error to raise: what happened, on which host, with which model, what to do."""
    row, groups = _match(error)
    said = f" (it said: {_quoted(error.text)})" if error.text.strip() else ""
    advice = row.advice.format(model=model, said=said, **groups)
    return EngineError(row.failure, f"{host}: {advice}", status=error.status)


def _match(error: ServerError) -> tuple[_Row, dict[str, str]]:
    for row in _ROWS:
        if row.statuses is not None and error.status not in row.statuses:
            continue
        if row.operation is not None and row.operation is not error.operation:
            continue
        if row.pattern is None:
            return row, {}
        found = row.pattern.search(error.text)
        if found is not None:
            return row, found.groupdict("")
    raise AssertionError("the table's last row fits everything")


def _quoted(text: str) -> str:
    short = _IN_QUOTES.sub("...", " ".join(text.split()))
    return short if len(short) <= _QUOTED_CHARACTERS else f"{short[:_QUOTED_CHARACTERS]}..."

"""Reading requests as Ollama reads them: what each asks for, and the wording of each refusal."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeVar, cast

import attrs
import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker_core.engine import JSON

__all__ = ["Demand", "Refusal", "check_options", "keep_alive_seconds", "read_body", "read_demand"]

_T = TypeVar("_T")

_FLOATS = frozenset(
    {
        "temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty",
        "frequency_penalty",
    }
)  # fmt: skip
_INTEGERS = frozenset(
    {
        "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed",
        "num_predict", "top_k", "repeat_last_n",
    }
)  # fmt: skip
_RUNNER_OPTIONS = ("num_ctx", "num_gpu", "num_batch", "num_thread", "main_gpu", "use_mmap")
_DURATION = re.compile(r"([-+]?)((?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+)")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_GO_KINDS: dict[type, str] = {
    bool: "bool",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Refusal(Exception):
    """An answer with an error status, in Ollama's words."""

    def __init__(self, status: int, error: str) -> None:
        self.status = status
        self.error = error
        super().__init__(f"{status}: {error}")


@attrs.frozen(kw_only=True)
class Demand:
    """What a chat, generate or embed request asks for; the three differ in `inputs`."""

    path: str
    model: str
    stream: bool
    inputs: tuple[str, ...]
    """The messages' contents, the prompt, or the texts to embed."""
    roles: tuple[str, ...] = ()
    options: Mapping[str, JSON]
    keep_alive: float | str | None
    format: JSON
    think: bool | str | None
    tools: tuple[str, ...]
    """The names of the functions."""
    truncate: bool
    dimensions: int | None
    logprobs: bool
    shift: bool | None

    @property
    def text(self) -> str:
        """All inputs, for a fault to look into."""
        return "\n".join(self.inputs)

    @property
    def last_user_text(self) -> str:
        """What the fake engine echoes."""
        for role, content in zip(reversed(self.roles), reversed(self.inputs), strict=True):
            if role == "user":
                return content
        return self.inputs[-1] if self.inputs else ""

    @property
    def runner_profile(self) -> dict[str, JSON]:
        """The options that a runner is started with: others mean a reload."""
        profile = {name: self.options[name] for name in _RUNNER_OPTIONS if name in self.options}
        return profile if self.shift is None else {**profile, "shift": self.shift}


def read_body(body: bytes) -> dict[str, JSON]:
    """Return the JSON object that a request carries; refuses anything else as Ollama does."""
    if not body:
        raise Refusal(400, "missing request body")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"invalid character in request body: {error}") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"json: cannot unmarshal {_go_kind(value)} into Go value")
    return value


def read_demand(path: str, body: Mapping[str, JSON]) -> Demand:
    """Return what a chat, generate or embed request asks for."""
    options = _typed(body, "options", dict, {})
    roles: tuple[str, ...] = ()
    match path:
        case "/api/chat":
            roles, inputs = _messages(body)
        case "/api/embed":
            inputs = _embed_inputs(body)
        case _:
            prompt = _typed(body, "prompt", str, "")
            inputs = (prompt,) if prompt else ()
            roles = ("user",) * len(inputs)
    return Demand(
        path=path,
        model=_typed(body, "model", str, ""),
        stream=_typed(body, "stream", bool, path != "/api/embed"),
        inputs=inputs,
        roles=roles or ("user",) * len(inputs),
        options=cast("Mapping[str, JSON]", options),
        keep_alive=_keep_alive(body.get("keep_alive")),
        format=body.get("format"),
        think=_think(body.get("think")),
        tools=_tool_names(_typed(body, "tools", list, [])),
        truncate=_typed(body, "truncate", bool, default=True),
        dimensions=_typed(body, "dimensions", int, 0) or None,
        logprobs=_typed(body, "logprobs", bool, default=False),
        shift=_typed(body, "shift", bool, default=True) if "shift" in body else None,
    )


def check_options(options: Mapping[str, JSON]) -> None:
    """Refuse an option of a wrong type; unknown options pass, as in Ollama."""
    for name, value in options.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _FLOATS and not number:
            raise Refusal(500, f'option "{name}" must be of type float32')
        if name in _INTEGERS and not number:
            raise Refusal(500, f'option "{name}" must be of type integer')
        if name == "use_mmap" and not isinstance(value, bool):
            raise Refusal(500, f'option "{name}" must be of type boolean')
        if name == "stop" and not isinstance(value, list):
            raise Refusal(500, f'option "{name}" must be of type array')


def keep_alive_seconds(value: float | str | None) -> float | None:
    """Return a `keep_alive` in seconds, `inf` for ever, `None` when it was not given."""
    if value is None:
        return None
    if isinstance(value, int | float):
        return math.inf if value < 0 else float(value)
    match = _DURATION.fullmatch(value)
    if match is None:
        if value in {"0", "+0", "-0"}:
            return 0.0
        wrong = "missing unit in" if re.fullmatch(r"[-+]?\d+(\.\d*)?", value) else "invalid"
        raise Refusal(400, f'time: {wrong} duration "{value}"')
    total = sum(float(n) * _UNITS[unit] for n, unit in _DURATION_PART.findall(match[2]))
    return math.inf if match[1] == "-" and total > 0 else total


def _keep_alive(value: JSON) -> float | str | None:
    if isinstance(value, bool | list | dict):
        raise Refusal(400, f"json: cannot unmarshal {_go_kind(value)} into api.Duration")
    keep_alive_seconds(value)
    return value


def _think(value: JSON) -> bool | str | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value in {"low", "medium", "high", "max"}:
        return value
    raise Refusal(
        400,
        f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)',
    )


def _messages(body: Mapping[str, JSON]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    roles, contents = [], []
    for message in _typed(body, "messages", list, []):
        if not isinstance(message, dict):
            raise Refusal(400, f"json: cannot unmarshal {_go_kind(message)} into api.Message")
        roles.append(_typed(message, "role", str, ""))
        contents.append(_typed(message, "content", str, ""))
    return tuple(roles), tuple(contents)


def _tool_names(tools: list[JSON]) -> tuple[str, ...]:
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    return tuple(str(part.get("name")) for part in functions if isinstance(part, dict))


def _embed_inputs(body: Mapping[str, JSON]) -> tuple[str, ...]:
    value = body.get("input")
    if not value and (value is None or isinstance(value, str | list)):
        return ()
    if isinstance(value, str):
        return (value,)
    texts = value if isinstance(value, list) else [value]
    strings = tuple(text for text in texts if isinstance(text, str))
    if len(strings) == len(texts):
        return strings
    raise Refusal(400, "invalid input type")


def _typed(body: Mapping[str, JSON], name: str, kind: type[_T], default: _T) -> _T:
    value = body.get(name)
    if value is None:
        return default
    # A bool is an int to Python, and not to Go.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Refusal(400, f"json: cannot unmarshal {_go_kind(value)} into Go struct field {name}")
    return value


def _go_kind(value: JSON) -> str:
    return _GO_KINDS.get(type(value), "null")

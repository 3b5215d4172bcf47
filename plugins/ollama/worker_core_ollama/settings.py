"""The settings of the Ollama engine, `[plugins.ollama]`."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import urlsplit

import attrs

from worker_core.circuit import CircuitLimits
from worker_core.config import EnvUnit, at_least, longer_than_zero, setting
from worker_core.engine import HostLimits
from worker_core.model_name import canonical_model_name

__all__ = ["OllamaSettings", "RunnerProfile"]


@attrs.frozen(kw_only=True)
class RunnerProfile:
    """The options that a model's runner is started with; a request with others means a reload.

    What is `None` is not sent, and so left to the server.
    """

    num_ctx: int | None = setting(None, validator=attrs.validators.optional(at_least(1)))
    num_gpu: int | None = setting(None)
    """Layers on the GPU; -1: as the server thinks."""
    num_batch: int | None = setting(None, validator=attrs.validators.optional(at_least(1)))
    num_thread: int | None = setting(None, validator=attrs.validators.optional(at_least(0)))
    main_gpu: int | None = setting(None, validator=attrs.validators.optional(at_least(0)))
    use_mmap: bool | None = setting(None)
    shift: bool | None = setting(None)
    """Not an option on Ollama's wire, but a field of its own beside them."""

    def over(self, base: RunnerProfile) -> RunnerProfile:
        """Return `base` with whatever is set here instead."""
        own = {name: value for name, value in attrs.asdict(self).items() if value is not None}
        return attrs.evolve(base, **own)


def _http_url(_: object, field: attrs.Attribute[str], value: str) -> None:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(
            f"'{field.name}' must be a URL such as http://127.0.0.1:11434, found {value!r}"
        )
    if parts.username or parts.password:
        raise ValueError(f"'{field.name}' must not hold credentials; set api_key")


def _header_text(_: object, field: attrs.Attribute[str], value: str | None) -> None:
    # The message must not show the value, as those of attrs' own validators do.
    if value is not None and not (value.isascii() and value.isprintable() and " " not in value):
        raise ValueError(f"'{field.name}' must be printable ASCII without blanks")


@attrs.frozen(kw_only=True)
class OllamaSettings:
    """`[plugins.ollama]`: the server, the clocks of a call, and how models are loaded."""

    base_url: str = setting("http://127.0.0.1:11434", env="OLLAMA_BASE_URL", validator=_http_url)
    """A path in it is kept, for servers behind a proxy."""
    api_key: str | None = setting(None, env="OLLAMA_API_KEY", secret=True, validator=_header_text)
    """Sent to this server only; a local Ollama ignores it."""
    max_concurrent_requests: int = setting(4, env="MAX_CONCURRENT_REQUESTS", validator=at_least(1))
    max_retries: int = setting(2, env="OLLAMA_MAX_RETRIES", validator=at_least(0))
    timeout: timedelta = setting(
        timedelta(seconds=300),
        env="OLLAMA_TIMEOUT",
        env_unit=EnvUnit.MILLISECONDS,
        validator=longer_than_zero,
    )
    """One whole answer, from the admission to its last token."""
    connect_timeout: timedelta = setting(timedelta(seconds=5), validator=longer_than_zero)
    first_token_timeout: timedelta = setting(timedelta(seconds=120), validator=longer_than_zero)
    between_tokens_timeout: timedelta = setting(timedelta(seconds=60), validator=longer_than_zero)
    load_timeout: timedelta = setting(timedelta(minutes=15), validator=longer_than_zero)
    circuit: CircuitLimits = setting(factory=CircuitLimits)
    """When calls are kept away from the server, or from one of its models."""
    runner: RunnerProfile = setting(factory=RunnerProfile)
    """How every model is loaded."""
    runner_by_model: Mapping[str, RunnerProfile] = setting(factory=dict)
    """What is different for one model, by its name; what is not set is as in `runner`."""

    @property
    def host_name(self) -> str:
        """The server's label in logs and metrics, such as `127.0.0.1:11434`."""
        return urlsplit(self.base_url).netloc

    @property
    def is_loopback(self) -> bool:
        """Whether the server is this machine, so that no proxy must come between."""
        name = urlsplit(self.base_url).hostname or ""
        if name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    @property
    def limits(self) -> HostLimits:
        """The worker's share: it keeps these clocks and counts."""
        return HostLimits(
            max_concurrent=self.max_concurrent_requests,
            max_retries=self.max_retries,
            first_token_timeout=self.first_token_timeout,
            between_tokens_timeout=self.between_tokens_timeout,
            total_timeout=self.timeout,
            load_timeout=self.load_timeout,
            circuit=self.circuit,
        )

    def runner_of(self, model: str) -> RunnerProfile:
        """Return the profile of `model`, however it is spelt."""
        wanted = canonical_model_name(model)
        for name, profile in self.runner_by_model.items():
            if canonical_model_name(name) == wanted:
                return profile.over(self.runner)
        return self.runner

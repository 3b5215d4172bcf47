"""Settings: how they are declared, and the core's own.

A plugin declares its settings as the core does: a frozen attrs class whose fields are made by
`setting`, which holds the name of an environment variable beside the field that it sets.
Where values come from (`defaults < file < .env < environment < flags`) is the concern of
`worker_core._runtime.sources`.
"""

from __future__ import annotations

import enum
import os
import re
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

import attrs
from attrs.validators import ge, gt

if TYPE_CHECKING:
    from worker_core.redis import Endpoint

__all__ = [
    "DeadLetterSettings",
    "EnvUnit",
    "LogSettings",
    "QueueSettings",
    "RedisSettings",
    "ResultSettings",
    "SettingInfo",
    "WorkerSettings",
    "at_least",
    "longer_than_zero",
    "setting",
]

T = TypeVar("T")

_INFO = "worker_core.setting"


class EnvUnit(enum.Enum):
    """What a bare number in an environment variable counts."""

    MILLISECONDS = timedelta(milliseconds=1)
    SECONDS = timedelta(seconds=1)


@attrs.frozen
class SettingInfo:
    """What `setting` keeps beside a field."""

    env: str | None = None
    env_unit: EnvUnit | None = None
    secret: bool = False

    @staticmethod
    def of(field: attrs.Attribute[Any]) -> SettingInfo:
        """Return a field's info; an empty one where the field was made without `setting`."""
        return cast("SettingInfo", field.metadata.get(_INFO, SettingInfo()))


def setting(
    default: T = attrs.NOTHING,  # type: ignore[assignment]  # NOTHING is attrs' word for "required"
    *,
    factory: Callable[[], T] | None = None,
    env: str | None = None,
    env_unit: EnvUnit | None = None,
    secret: bool = False,
    validator: Callable[[Any, attrs.Attribute[Any], Any], object] | None = None,
) -> T:
    """Declare one setting of an attrs class.

    `env` names the environment variable that sets it, and `env_unit` what a bare number there
    counts; one name may feed several plugins. A `secret` is masked wherever settings are shown.
    """
    field: T = attrs.field(
        default=attrs.Factory(factory) if factory is not None else default,
        validator=validator,
        metadata={_INFO: SettingInfo(env, env_unit, secret)},
        repr=not secret,
    )
    return field


def at_least(least: float | timedelta) -> Callable[[Any, attrs.Attribute[Any], Any], object]:
    """Refuse numbers under `least`."""
    return ge(least)


def longer_than_zero(_: object, field: attrs.Attribute[Any], value: timedelta) -> None:
    """Refuse durations of nothing and less."""
    if value <= timedelta():
        raise ValueError(f"'{field.name}' must be longer than 0s")


def fit_for_a_client_name(_: object, field: attrs.Attribute[str], value: str) -> None:
    """Refuse what `CLIENT SETNAME` would, for it becomes part of a connection's name."""
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError(
            f"'{field.name}' must be printable ASCII characters without spaces, found {value!r}"
        )


def default_worker_id() -> str:
    """Name this process so that an operator finds it: host name and process number."""
    host = re.sub(r"[^!-~]", "-", socket.gethostname())
    return f"{host}-{os.getpid()}"


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """`[worker]`: what runs in this process."""

    TABLE: ClassVar[str] = "worker"

    id: str = setting(factory=default_worker_id, env="WORKER_ID", validator=fit_for_a_client_name)
    plugins: tuple[str, ...] = setting(())
    fallbacks: tuple[str, ...] | None = setting(None)
    """The fallback strategies to ask, in order; by default all, in the order of their plugins."""
    engine: str | None = setting("ollama")
    """The engine plugin, loaded beside the enabled ones; "none" for job types that need no model."""
    concurrency: int = setting(4, env="WORKER_CONCURRENCY", validator=at_least(1))
    """Slots of each queue whose plugin does not say otherwise."""
    grace: timedelta = setting(timedelta(seconds=30), validator=longer_than_zero)
    """How long a drain lets running jobs go on before it returns them to their queue."""
    max_wait: timedelta = setting(timedelta(minutes=10), validator=longer_than_zero)
    """How long a job may wait for its model and a place on a host."""
    circuits: bool = setting(default=True, env="ENABLE_CIRCUIT_BREAKER")
    """Whether calls are kept away from models and hosts that fail again and again."""
    max_circuit_wait: timedelta = setting(timedelta(hours=1), validator=at_least(timedelta()))
    """How long an attempt is put back while circuits are open before it fails; nothing: never."""
    engine_patience: timedelta = setting(timedelta(seconds=30), validator=longer_than_zero)
    """How long a job waits for a host that cannot be reached before its attempt fails."""
    freeze_limit: timedelta = setting(timedelta(seconds=5), validator=longer_than_zero)
    """How long the event loop may hang before the watchdog says where."""


def _asks_for_tls(url: str) -> bool:
    return url.lower().startswith(("rediss:", "rediss+", "valkeys:", "valkeys+"))


@attrs.frozen(kw_only=True)
class RedisSettings:
    """`[redis]`: where the queues are, and how long its silence is borne."""

    TABLE: ClassVar[str] = "redis"

    url: str = setting("redis://127.0.0.1:6379", env="REDIS_URL")
    password: str | None = setting(None, env="REDIS_PASSWORD", secret=True)
    """Replaces the URL's own."""
    tls_ca: str | None = setting(None)
    """A PEM file of the authorities to trust in place of the system's, for a URL with TLS."""
    tls_cert: str | None = setting(None)
    """A PEM file with a certificate of our own, for servers that want one."""
    tls_key: str | None = setting(None)
    """Its key, where that is not in the same file."""
    sentinel_username: str | None = setting(None)
    """Sentinels have users of their own; those of the URL are for the servers."""
    sentinel_password: str | None = setting(None, env="REDIS_SENTINEL_PASSWORD", secret=True)
    reply_timeout: timedelta = setting(timedelta(seconds=10), validator=longer_than_zero)
    start_timeout: timedelta = setting(timedelta(seconds=60), validator=longer_than_zero)
    outage_timeout: timedelta = setting(timedelta(minutes=2), validator=longer_than_zero)
    """How long a finished job waits for a lost Redis to come back before it is given up."""

    def endpoint(self) -> Endpoint:
        """Return where the queues are; raises `ConfigError`."""
        # Only here: every plugin imports this module, and not all that reads settings connects.
        from worker_core.redis import Endpoint, Login, TLSFiles  # noqa: PLC0415

        files = TLSFiles(ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key)
        return Endpoint.from_url(
            self.url,
            password=self.password,
            tls=None if files == TLSFiles() else files,
            sentinel=Login(username=self.sentinel_username, password=self.sentinel_password),
        )

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield (field, message) for combinations that cannot work."""
        if self.tls_key is not None and self.tls_cert is None:
            yield "tls_key", "is of no use without tls_cert"
        for name in ("tls_ca", "tls_cert", "tls_key"):
            # Nobody who names one means to speak in the clear.
            if getattr(self, name) is not None and not _asks_for_tls(self.url):
                yield name, "is for a URL with TLS: begin url with rediss"


@attrs.frozen(kw_only=True)
class QueueSettings:
    """`[queue]`: the BullMQ protocol's own figures; the defaults are BullMQ's."""

    TABLE: ClassVar[str] = "queue"

    prefix: str = setting("bull", validator=fit_for_a_client_name)
    lock_duration: timedelta = setting(timedelta(seconds=30), validator=longer_than_zero)
    lock_renew_time: timedelta = setting(timedelta(seconds=15), validator=longer_than_zero)
    drain_delay: timedelta = setting(timedelta(seconds=5), validator=longer_than_zero)
    """How long one blocking wait on an empty queue lasts."""
    stalled_interval: timedelta = setting(timedelta(seconds=30), validator=longer_than_zero)
    """How often one of the workers looks for jobs whose worker is gone."""
    max_stalled_count: int = setting(1, validator=at_least(0))
    """How often a job may lose its worker before it fails; the checking worker's figure counts."""
    max_started_attempts: int | None = setting(None, validator=attrs.validators.optional(ge(1)))
    """How often a job may be started in all, whatever its attempts say."""
    chart_minutes: int = setting(0, validator=at_least(0))
    """How many minutes of finished jobs BullMQ's dashboards get for their charts (maxDataPoints)."""
    keep_completed: int | None = setting(None, validator=attrs.validators.optional(ge(0)))
    """How many completed jobs to keep where a job does not say; all by default, as BullMQ does."""
    keep_failed: int | None = setting(None, validator=attrs.validators.optional(ge(0)))

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield (field, message) for combinations that cannot work."""
        # BullMQ's own is half. What remains is for a slow renewal and a reconnect.
        if self.lock_renew_time / self.lock_duration > 2 / 3:
            yield (
                "lock_renew_time",
                "must be at most two thirds of lock_duration, or locks run out unrenewed",
            )


@attrs.frozen(kw_only=True)
class ResultSettings:
    """`[results]`: where answers are kept."""

    TABLE: ClassVar[str] = "results"

    inline_limit: int = setting(256 * 1024, validator=gt(0))
    """Bytes; a larger envelope is kept under a key of its own, for BullMQ copies return values."""
    ttl: timedelta = setting(timedelta(days=1), validator=longer_than_zero)
    """How long such a key is kept."""
    stream_ttl: timedelta = setting(timedelta(hours=1), validator=longer_than_zero)
    """How long a job's token stream is kept after its last entry."""


@attrs.frozen(kw_only=True)
class DeadLetterSettings:
    """`[dead_letters]`: jobs that failed for good."""

    TABLE: ClassVar[str] = "dead_letters"

    enabled: bool = setting(default=True)
    """Whether each is also put on the queue `<queue>-dead`, with the history of its attempts."""


@attrs.frozen(kw_only=True)
class LogSettings:
    """`[log]`: what is written to standard error."""

    TABLE: ClassVar[str] = "log"

    level: Literal["debug", "info", "warning", "error"] = setting("info")
    format: Literal["auto", "console", "json"] = setting("auto")
    """`auto`: for people on a terminal, JSON everywhere else."""
    content: bool = setting(default=False)
    """Whether prompts and answers may be logged."""


@attrs.frozen(kw_only=True)
class CoreSettings:
    """All of the core's tables."""

    worker: WorkerSettings = attrs.field(factory=WorkerSettings)
    redis: RedisSettings = attrs.field(factory=RedisSettings)
    queue: QueueSettings = attrs.field(factory=QueueSettings)
    results: ResultSettings = attrs.field(factory=ResultSettings)
    dead_letters: DeadLetterSettings = attrs.field(factory=DeadLetterSettings)
    log: LogSettings = attrs.field(factory=LogSettings)

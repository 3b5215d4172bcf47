"""From sources to settings: the core's and those of the enabled plugins, all faults at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import attrs
from cattrs import Converter

from worker_core._runtime.plugins import PluginClass, compose, import_plugin
from worker_core._runtime.sources import DEFAULT, Layers, Table
from worker_core.config import (
    CoreSettings,
    DeadLetterSettings,
    LogSettings,
    QueueSettings,
    RedisSettings,
    ResultSettings,
    SettingInfo,
    WorkerSettings,
)
from worker_core.durations import parse_duration
from worker_core.errors import ConfigError, Fault, PluginError
from worker_core.redis import Endpoint
from worker_core.redis.connecting import searcher_of
from worker_core.strict_json import item_path, key_path
from worker_core.structure import InvalidData, kind_of, make_converter, structure

if TYPE_CHECKING:
    from worker_core._runtime.plugins import Composition

__all__ = ["CORE_TABLES", "KNOWN_VARIABLES", "Configuration", "Shown", "load"]

CORE_TABLES: tuple[type[Any], ...] = (
    WorkerSettings,
    RedisSettings,
    QueueSettings,
    ResultSettings,
    DeadLetterSettings,
    LogSettings,
)

_NO_ENGINE = "none"
"""Reads better in a file than leaving a setting out that has a default."""

KNOWN_VARIABLES: dict[str, tuple[str, ...]] = {
    "WORKER_TIMEOUT": ("chat", "embeddings"),
    "ALLOWED_MODELS": ("chat", "embeddings"),
    "WORKER_BATCH_SIZE": ("embeddings",),
    "ENABLE_BATCH_PROCESSING": ("embeddings",),
    "BATCH_TIMEOUT": ("embeddings",),
    "ENABLE_MODEL_FALLBACK": ("fallback_model",),
    "FALLBACK_MODELS": ("fallback_model",),
    "METRICS_ENABLED": ("health",),
    "MAX_CONCURRENT_REQUESTS": ("ollama",),
    "OLLAMA_API_KEY": ("ollama",),
    "OLLAMA_BASE_URL": ("ollama",),
    "OLLAMA_TIMEOUT": ("ollama",),
    "OLLAMA_MAX_RETRIES": ("ollama",),
}
"""First-party variables by the plugins that read them, for a notice when none of those is on."""


@attrs.frozen
class Shown:
    """One effective setting for display; a secret's value is masked already."""

    path: str
    value: object
    source: str


@attrs.frozen
class Configuration:
    """Settings that a worker can start with."""

    core: CoreSettings
    plugins: tuple[tuple[PluginClass, object], ...]
    """The enabled ones in order, each with its settings; the engine's comes first."""
    shown: tuple[Shown, ...]
    notices: tuple[str, ...]

    def compose(self) -> Composition:
        """Build the plugins; raises `PluginError`."""
        worker = self.core.worker
        return compose(self.plugins, engine=worker.engine, fallbacks=worker.fallbacks)


def load(
    layers: Layers, faults: list[Fault], *, extra: Sequence[PluginClass] = ()
) -> Configuration:
    """Return the settings that the layers amount to; raises `ConfigError` with every fault.

    `faults` are those found while reading the layers. Plugins that are enabled are imported, no
    others; `extra` ones are enabled behind them without being installed.
    """
    shown: list[Shown] = []
    core = _core(layers, faults, shown)
    plugins: list[tuple[PluginClass, object]] = []
    for name, setting, source in _enabled(layers):
        try:
            plugin = import_plugin(name)
        except PluginError as error:
            faults.append(Fault(f"worker.{setting}", str(error), source))
            continue
        plugins.append((plugin, _plugin_settings(layers, plugin, faults, shown)))
    plugins.extend((plugin, _plugin_settings(layers, plugin, faults, shown)) for plugin in extra)
    if faults:
        raise ConfigError(faults)
    notices = _notices(layers, [plugin for plugin, _ in plugins])
    return Configuration(core, tuple(plugins), tuple(shown), tuple(notices))


def _enabled(layers: Layers) -> Iterator[tuple[str, str, str]]:
    """Yield (name, setting, source) of each enabled plugin, the engine's first.

    Read from the layers and not from the settings: where these have faults, those of the plugins
    are to be told all the same.
    """
    table = layers.table(WorkerSettings.TABLE, WorkerSettings, [])
    defaults = WorkerSettings()
    engine = table.values.get("engine", defaults.engine)
    names = table.values.get("plugins", defaults.plugins)
    seen = {_NO_ENGINE}
    for name, setting in (
        (engine, "engine"),
        *((name, "plugins") for name in (names if isinstance(names, list | tuple) else ())),
    ):
        if isinstance(name, str) and name not in seen:
            seen.add(name)
            yield name, setting, table.sources.get(setting, DEFAULT)


def _core(layers: Layers, faults: list[Fault], shown: list[Shown]) -> CoreSettings:
    known = [shape.TABLE for shape in CORE_TABLES] + ["plugins"]
    faults.extend(
        Fault(name, _unknown("table", name, known), layers.file_name)
        for name in layers.top_level()
        if name not in known
    )
    built = {
        shape.TABLE: _settings(layers.table(shape.TABLE, shape, faults), shape, faults, shown)
        for shape in CORE_TABLES
    }
    core = CoreSettings(**{name: settings for name, settings in built.items() if settings})
    if core.worker.engine == _NO_ENGINE:
        core = attrs.evolve(core, worker=attrs.evolve(core.worker, engine=None))
    address_faults = list(_address_faults(layers))
    faults.extend(address_faults)
    if not address_faults:
        faults.extend(_cluster_faults(core, layers))
    return core


def _address_faults(layers: Layers) -> Iterator[Fault]:
    """Yield the faults of `redis.url`; looked for also where another setting there has one."""
    table = layers.table(RedisSettings.TABLE, RedisSettings, [])
    url = table.values.get("url", RedisSettings().url)
    if isinstance(url, str):
        try:
            Endpoint.from_url(url)
        except ConfigError as error:
            source = table.sources.get("url", DEFAULT)
            yield from (attrs.evolve(fault, source=source) for fault in error.faults)


def _cluster_faults(core: CoreSettings, layers: Layers) -> Iterator[Fault]:
    """Yield the fault of a `queue.prefix` whose keys no single node of a Cluster would have."""
    try:
        searcher_of(core.redis.endpoint(), prefix=core.queue.prefix)
    except ConfigError as error:
        table = layers.table(QueueSettings.TABLE, QueueSettings, [])
        source = table.sources.get("prefix", DEFAULT)
        yield from (attrs.evolve(fault, source=source) for fault in error.faults)


def _plugin_settings(
    layers: Layers, plugin: PluginClass, faults: list[Fault], shown: list[Shown]
) -> object:
    path = f"plugins.{plugin.info.name}"
    shape = plugin.settings or _NoSettings
    try:
        return _settings(layers.table(path, shape, faults), shape, faults, shown)
    except Exception as error:  # noqa: BLE001  # a plugin's class: its types, its own checks
        faults.append(Fault(path, f"{plugin.info}: its Settings cannot be used: {error!r}"))
        return None


@attrs.frozen
class _NoSettings:
    """The settings of a plugin that declares none."""


def _settings(table: Table, shape: type[Any], faults: list[Fault], shown: list[Shown]) -> Any:
    """Structure one table; returns `None` where it has faults."""
    found = list(_unknown_keys(table.values, shape, ""))
    settings: Any = None
    try:
        settings = structure(table.values, shape, converter=_converter())
    except InvalidData as error:
        found.extend((fault.path, fault.message) for fault in error.faults)
    if settings is not None and not found:
        found.extend(_combinations(settings))
    if found:
        faults.extend(
            Fault(key_path(table.path, path) if path else table.path, message, _source(table, path))
            for path, message in found
        )
        return None
    shown.extend(_show(table, settings))
    return settings


def _combinations(settings: object) -> Iterator[tuple[str, str]]:
    """Yield what a settings class says of itself in its optional method `check`."""
    check = getattr(settings, "check", None)
    if check is not None:
        yield from check()


def _source(table: Table, path: str) -> str:
    """Return who said what stands at `path`; a name at the top may hold any character."""
    for name, source in table.sources.items():
        if path == name or path.startswith((f"{name}.", f"{name}[")):
            return source
    return DEFAULT


def _unknown_keys(value: object, shape: Any, path: str) -> Iterator[tuple[str, str]]:
    if attrs.has(shape) and isinstance(value, Mapping):
        attrs.resolve_types(shape)
        fields = {field.name: field for field in attrs.fields(shape)}
        for name, inner in value.items():
            inner_path = key_path(path, str(name))
            if name not in fields:
                yield inner_path, _unknown("key", str(name), list(fields))
            else:
                yield from _unknown_keys(inner, fields[name].type, inner_path)
        return
    # Lists, objects with free names, and "or": whatever stands in them has its own shape.
    for member in get_args(shape):
        if get_origin(shape) in {list, tuple} and isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield from _unknown_keys(item, member, item_path(path, index))
        elif get_origin(shape) in {dict, Mapping} and isinstance(value, Mapping):
            for name, item in value.items():
                yield from _unknown_keys(item, member, key_path(path, str(name)))
        elif get_origin(shape) in {Union, UnionType}:
            yield from _unknown_keys(value, member, path)


def _unknown(what: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(known)}"
    return f"unknown {what}{hint if known else ''}"


def _show(table: Table, settings: Any) -> Iterator[Shown]:
    for field in attrs.fields(type(settings)):
        value = getattr(settings, field.name)
        if SettingInfo.of(field).secret and value is not None:
            value = "********"
        elif isinstance(value, str) and "@" in value and "://" in value:
            value = _without_password(value)
        yield Shown(f"{table.path}.{field.name}", value, table.sources.get(field.name, DEFAULT))


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    credentials, _, place = rest.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{scheme}://{user}:********@{place}" if ":" in credentials else url


def _notices(layers: Layers, enabled: list[PluginClass]) -> Iterator[str]:
    names = {plugin.info.name for plugin in enabled}
    for name in layers.plugin_tables():
        if name not in names:
            yield f"[plugins.{name}] is not read: the plugin is not enabled"
    read = {
        SettingInfo.of(field).env
        for plugin in enabled
        if plugin.settings is not None
        for field in attrs.fields(plugin.settings)
    }
    for variable, source in layers.variables().items():
        owners = KNOWN_VARIABLES.get(variable)
        if owners and variable not in read:
            yield f"{variable} ({source}) sets nothing: enable plugin {' or '.join(owners)}"


@cache
def _converter() -> Converter:
    """Return the strict converter, with durations written as text."""
    converter = make_converter()

    def duration(value: object, _: object) -> timedelta:
        if isinstance(value, timedelta):
            return value
        if not isinstance(value, str):
            raise TypeError(f"expected a duration such as '300s', found {kind_of(value)}")
        return parse_duration(value)

    converter.register_structure_hook(timedelta, duration)
    return converter

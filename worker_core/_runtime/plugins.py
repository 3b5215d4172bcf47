"""Plugins: found by entry point, built, registered, and asked for what they provide.

Only enabled plugins are imported. Whatever is wrong names the plugin, its distribution and version.
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
import pluggy

from worker_core import hookspecs
from worker_core.backoff import BackoffStrategy
from worker_core.engine import Engine
from worker_core.errors import PluginError
from worker_core.fallback import Fallback
from worker_core.health import HealthCheck
from worker_core.job import JobType
from worker_core.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from worker_core.job import JobEvent

__all__ = [
    "GROUP",
    "Composition",
    "PluginClass",
    "PluginInfo",
    "compose",
    "find_plugins",
    "import_plugin",
]

GROUP = "worker_core.plugins"

T = TypeVar("T")


@attrs.frozen
class PluginInfo:
    """An installed plugin: known by its entry point, not imported."""

    name: str
    entry_point: EntryPoint = attrs.field(repr=False)

    @property
    def distribution(self) -> str:
        """The name of the distribution that brings it."""
        dist = self.entry_point.dist
        return dist.name if dist else "unknown distribution"

    @property
    def version(self) -> str:
        """The distribution's version."""
        dist = self.entry_point.dist
        return dist.version if dist else "?"

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@attrs.frozen
class PluginClass:
    """An imported plugin class with the settings class it declares."""

    info: PluginInfo
    cls: type[Any]
    settings: type[Any] | None

    def hooks(self) -> list[str]:
        """Return the names of the hooks that it implements."""
        marked = f"{hookspecs.PROJECT}_impl"
        return sorted(
            name for name, member in inspect.getmembers(self.cls) if hasattr(member, marked)
        )


@attrs.frozen
class Composition:
    """What the enabled plugins provide, in their configured order."""

    engine: Engine | None
    job_types: tuple[JobType[Any], ...]
    services: tuple[Service, ...]
    observers: tuple[tuple[str, Callable[[JobEvent], None]], ...]
    health_checks: tuple[HealthCheck, ...] = ()
    backoffs: Mapping[str, BackoffStrategy] = attrs.field(factory=dict)
    """The strategies by name."""
    fallbacks: tuple[Fallback, ...] = ()
    """In the order in which they are asked."""


def find_plugins() -> dict[str, list[PluginInfo]]:
    """Return what is installed, by name; two under one name are a fault only when it is enabled."""
    found: dict[str, list[PluginInfo]] = {}
    for entry_point in entry_points(group=GROUP):
        found.setdefault(entry_point.name, []).append(PluginInfo(entry_point.name, entry_point))
    return dict(sorted(found.items()))


def import_plugin(name: str) -> PluginClass:
    """Import an enabled plugin's class; raises `PluginError`."""
    installed = find_plugins()
    candidates = installed.get(name, [])
    if not candidates:
        known = ", ".join(installed) or "none"
        raise PluginError(name, f"not installed; installed are: {known}")
    if len(candidates) > 1:
        owners = " and ".join(str(info) for info in candidates)
        raise PluginError(name, f"brought by {owners}; uninstall all but one")
    info = candidates[0]
    try:
        cls = info.entry_point.load()
    except Exception as error:  # importing runs foreign code
        raise PluginError(name, f"cannot be imported from {info}: {error!r}") from error
    if not inspect.isclass(cls):
        raise PluginError(name, f"{info}: {info.entry_point.value} is not a class")
    settings = getattr(cls, "Settings", None)
    if settings is not None and not (inspect.isclass(settings) and attrs.has(settings)):
        raise PluginError(name, f"{info}: its Settings is not an attrs class")
    return PluginClass(info, cls, settings)


def compose(
    plugins: Sequence[tuple[PluginClass, object]],
    *,
    engine: str | None,
    fallbacks: Sequence[str] | None = None,
) -> Composition:
    """Build the plugins, each with its settings, and ask them for what they provide.

    `plugins` are in configured order, the engine's among them; `engine` is the plugin whose engine
    runs the models, `fallbacks` the strategies to use in their order, `None` for all. Raises
    `PluginError` for the first plugin that breaks its contract.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for plugin, settings in plugins:
        _register(manager, plugin, settings)
    enabled = [plugin for plugin, _ in plugins]
    engines = _collect(manager, enabled, "worker_core_engines", Engine)  # type: ignore[type-abstract]  # for isinstance only
    job_types = _collect(manager, enabled, "worker_core_job_types", JobType)  # type: ignore[type-abstract]  # for isinstance only
    services = _collect(manager, enabled, "worker_core_services", Service)  # type: ignore[type-abstract]  # for isinstance only
    checks = _collect(manager, enabled, "worker_core_health_checks", HealthCheck)
    _check_names(checks, "health check", taken={"redis", "queue", engine})
    backoffs = _collect(manager, enabled, "worker_core_backoff_strategies", BackoffStrategy)
    _check_names(backoffs, "backoff strategy", taken=set())
    strategies = _collect(manager, enabled, "worker_core_fallbacks", Fallback)  # type: ignore[type-abstract]  # for isinstance only
    _check_names(strategies, "fallback strategy", taken=set())
    _check_job_types(job_types)
    chosen = _choose_engine(enabled, engines, engine)
    for owner, job_type in job_types:
        if job_type.needs_engine and chosen is None:
            raise _broken(owner, f"job type {job_type.name!r} needs an engine, none is set")
    return Composition(
        engine=chosen,
        job_types=tuple(job_type for _, job_type in job_types),
        services=tuple(service for _, service in services),
        observers=tuple(
            (plugin.info.name, cast("Callable[[JobEvent], None]", impl.function))
            for plugin in enabled
            for impl in _implementations(manager, plugin, "worker_core_job_event")
        ),
        health_checks=tuple(check for _, check in checks),
        backoffs={strategy.name: strategy for _, strategy in backoffs},
        fallbacks=_in_order([strategy for _, strategy in strategies], fallbacks),
    )


def _register(manager: pluggy.PluginManager, plugin: PluginClass, settings: object) -> None:
    name = plugin.info.name
    try:
        instance = plugin.cls(settings) if plugin.settings is not None else plugin.cls()
        manager.register(instance, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise _broken(plugin.info, str(error)) from error
    except Exception as error:
        raise _broken(plugin.info, f"cannot be built: {error!r}") from error
    for caller in manager.get_hookcallers(instance) or ():
        # A hook without a result, such as an observer's, would not be noticed when it is called.
        if inspect.iscoroutinefunction(getattr(instance, caller.name)):
            raise _broken(plugin.info, f"{caller.name} is async; hooks are synchronous")


def _broken(info: PluginInfo, what: str) -> PluginError:
    return PluginError(info.name, f"{info}: {what}")


def _implementations(
    manager: pluggy.PluginManager, plugin: PluginClass, hook: str
) -> list[pluggy.HookImpl]:
    caller: pluggy.HookCaller = getattr(manager.hook, hook)
    return [impl for impl in caller.get_hookimpls() if impl.plugin_name == plugin.info.name]


def _collect(
    manager: pluggy.PluginManager, enabled: Iterable[PluginClass], hook: str, kind: type[T]
) -> list[tuple[PluginInfo, T]]:
    """Ask each plugin in turn, so that the order is the configured one and a fault has a name."""
    collected: list[tuple[PluginInfo, T]] = []
    for plugin in enabled:
        for impl in _implementations(manager, plugin, hook):
            provided = _ask(plugin.info, impl, hook)
            for item in provided:
                if not isinstance(item, kind):
                    is_class = inspect.isclass(item)
                    wrong = f"the class {item.__name__}" if is_class else type(item).__name__
                    raise _broken(
                        plugin.info, f"{hook} returned {wrong}, which is no {kind.__name__}"
                    )
                collected.append((plugin.info, item))
    return collected


def _ask(info: PluginInfo, impl: pluggy.HookImpl, hook: str) -> list[Any]:
    try:
        provided = impl.function()
    except Exception as error:
        raise _broken(info, f"{hook} raised {error!r}") from error
    if inspect.iscoroutine(provided):
        provided.close()
        raise _broken(info, f"{hook} is async; hooks are synchronous")
    if not isinstance(provided, list | tuple):
        raise _broken(info, f"{hook} returned {type(provided).__name__}, not a list")
    return list(provided)


def _check_job_types(job_types: Sequence[tuple[PluginInfo, JobType[Any]]]) -> None:
    names: dict[str, PluginInfo] = {}
    queues: dict[str, PluginInfo] = {}
    for owner, job_type in job_types:
        try:
            name, specs, request = job_type.name, tuple(job_type.queues), job_type.request
        except Exception as error:  # properties of plugins run foreign code
            raise _broken(owner, f"{type(job_type).__name__}: {error!r}") from error
        if not (inspect.isclass(request) and attrs.has(request)):
            raise _broken(owner, f"job type {name!r}: its request class is not an attrs class")
        if not specs:
            raise _broken(owner, f"job type {name!r} has no queue")
        for seen, key, what in (
            (names, name, "job type"),
            *((queues, spec.name, "queue") for spec in specs),
        ):
            if key in seen:
                first = seen[key]
                raise _broken(owner, f"the {what} {key!r} is {first.name}'s already ({first})")
            seen[key] = owner


def _check_names(
    named: Sequence[tuple[PluginInfo, HealthCheck | BackoffStrategy | Fallback]],
    what: str,
    taken: set[str | None],
) -> None:
    for owner, one in named:
        if one.name in taken:
            raise _broken(owner, f"a {what} {one.name!r} is there already")
        taken.add(one.name)


def _in_order(strategies: Sequence[Fallback], wanted: Sequence[str] | None) -> tuple[Fallback, ...]:
    if wanted is None:
        return tuple(strategies)
    by_name = {strategy.name: strategy for strategy in strategies}
    for name in wanted:
        if name not in by_name:
            there = ", ".join(by_name) or "none"
            words = f"is in [worker] fallbacks, and no enabled plugin brings it; there are: {there}"
            raise PluginError(name, words)
    return tuple(by_name[name] for name in dict.fromkeys(wanted))


def _choose_engine(
    enabled: Sequence[PluginClass], engines: Sequence[tuple[PluginInfo, Engine]], wanted: str | None
) -> Engine | None:
    if wanted is None:
        return None
    for owner, engine in engines:
        if owner.name == wanted:
            return engine
    said = "is set as [worker] engine and provides none"
    for plugin in enabled:
        if plugin.info.name == wanted:
            raise _broken(plugin.info, said)
    raise PluginError(wanted, said)

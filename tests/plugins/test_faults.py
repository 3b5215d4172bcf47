"""Whatever is wrong with a plugin names the plugin, its distribution and its version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker_core._runtime.plugins import Composition, PluginClass, compose, import_plugin
from worker_core.errors import PluginError
from worker_core.testing.workers import plugin_under_test

if TYPE_CHECKING:
    from tests.plugins.support import Site

FINE = """
class P:
    @hookimpl
    def worker_core_job_types(self):
        return [Named()]
"""


def offering(job_type: str, before: str = "") -> str:
    """Return the code of a plugin that offers a job type, given as an expression."""
    hook = f"    @hookimpl\n    def worker_core_job_types(self): return [{job_type}]"
    return f"{before}\n\nclass P:\n{hook}"


def start(
    *names: str, engine: str | None = None, fallbacks: list[str] | None = None
) -> Composition:
    """Import and compose as a worker does that enables these plugins."""
    plugins: list[tuple[PluginClass, object]] = []
    for name in names:
        plugin = import_plugin(name)
        plugins.append((plugin, plugin.settings() if plugin.settings else None))
    return compose(plugins, engine=engine, fallbacks=fallbacks)


def refusal_of(
    *names: str, engine: str | None = None, fallbacks: list[str] | None = None
) -> PluginError:
    with pytest.raises(PluginError) as caught:
        start(*names, engine=engine, fallbacks=fallbacks)
    return caught.value


def test_a_plugin_without_faults_is_composed(site: Site) -> None:
    site.install("fine", FINE)
    assert [job_type.name for job_type in start("fine").job_types] == ["fine"]


def test_a_plugin_that_is_not_installed_is_told_with_those_that_are(site: Site) -> None:
    site.install("fine", FINE)
    error = refusal_of("fien")
    assert error.plugin == "fien"
    assert str(error).startswith("plugin 'fien': not installed; installed are: ")
    assert "fine" in str(error)
    assert "chat" in str(error)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_module_at_all", 'ModuleNotFoundError("No module named'),
        ("raise RuntimeError('at import')", "RuntimeError('at import')"),
        ("def broken(:", "SyntaxError("),
        ("class Q: pass", "AttributeError("),
    ],
)
def test_a_plugin_that_cannot_be_imported_says_why(site: Site, code: str, said: str) -> None:
    site.install("bad", code)
    text = str(refusal_of("bad"))
    assert text.startswith("plugin 'bad': cannot be imported from dist-of-bad 1.2.3: ")
    assert said in text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("P = 3", "P is not a class"),
        ("def P(settings): ...", "P is not a class"),
        ("class P:\n    Settings = dict", "its Settings is not an attrs class"),
        (
            "class P:\n    Settings = attrs.make_class('S', [])()",
            "its Settings is not an attrs class",
        ),
        (
            "class P:\n    def __init__(self): raise KeyError('model')",
            "cannot be built: KeyError('model')",
        ),
        ("class P:\n    def __init__(self, settings): ...", "cannot be built: TypeError("),
        (
            "class P:\n    Settings = attrs.make_class('S', [])\n    def __init__(self): ...",
            "cannot be built: TypeError(",
        ),
        (
            "class P:\n    @hookimpl\n    def worker_core_job_typs(self): return []",
            "unknown hook 'worker_core_job_typs'",
        ),
        (
            "class P:\n    @hookimpl\n    def worker_core_job_event(self, evnt): ...",
            "Argument(s) {'evnt'} are declared in the hookimpl but can not be found in the hookspec",
        ),
        (
            "class P:\n    @hookimpl\n    async def worker_core_job_types(self): return []",
            "worker_core_job_types is async; hooks are synchronous",
        ),
        (
            "class P:\n    @hookimpl\n    async def worker_core_job_event(self, event): ...",
            "worker_core_job_event is async; hooks are synchronous",
        ),
        (
            "class P:\n    @hookimpl\n    def worker_core_job_types(self): raise ValueError('no')",
            "worker_core_job_types raised ValueError('no')",
        ),
        (
            "class P:\n    @hookimpl\n    def worker_core_job_types(self): return Named()",
            "worker_core_job_types returned Named, not a list",
        ),
        (
            "class P:\n    @hookimpl\n    def worker_core_job_types(self): pass",
            "worker_core_job_types returned NoneType, not a list",
        ),
        (
            "class P:\n    @hookimpl\n    def worker_core_job_types(self): yield Named()",
            "worker_core_job_types returned generator, not a list",
        ),
        (
            "class P:\n    @hookimpl\n    def worker_core_job_types(self): return [Named]",
            "worker_core_job_types returned the class Named, which is no JobType",
        ),
        (
            "class P:\n    @hookimpl\n    def worker_core_engines(self): return [Named()]",
            "worker_core_engines returned Named, which is no Engine",
        ),
        (
            "class P:\n    @hookimpl\n    def worker_core_services(self): return [None]",
            "worker_core_services returned NoneType, which is no Service",
        ),
        (
            "async def late(): return []\n\nclass P:\n    @hookimpl\n    def worker_core_job_types(self): return late()",
            "worker_core_job_types is async; hooks are synchronous",
        ),
        (
            "from worker_core.health import HealthCheck\n\nclass P:\n    @hookimpl\n    def worker_core_health_checks(self): return [HealthCheck('redis', print)]",
            "a health check 'redis' is there already",
        ),
        (
            offering("Named(queue='a:b')"),
            "'name' must not be empty or hold a colon: 'a:b'",
        ),
        (offering("Named(queue=None)"), "job type 'fine' has no queue"),
        (
            offering("N()", "class N(Named):\n    request = dict"),
            "job type 'fine': its request class is not an attrs class",
        ),
        (
            offering("N()", "class N(Named):\n    queues = property(lambda self: 1 / 0)"),
            "ZeroDivisionError",
        ),
        (offering("N()", "class N(Named):\n    def __init__(self): ..."), "AttributeError"),
    ],
)
def test_a_plugin_that_breaks_its_contract_is_named(site: Site, code: str, said: str) -> None:
    site.install("bad", code)
    site.install("fine", FINE)
    text = str(refusal_of("fine", "bad"))
    assert text.startswith("plugin 'bad': dist-of-bad 1.2.3: ")
    assert said in text


def test_a_job_type_without_its_methods_names_the_plugin(site: Site) -> None:
    code = """
    class Unfinished(JobType[Request]):
        name = "unfinished"
        request = Request

    class P:
        @hookimpl
        def worker_core_job_types(self):
            return [Unfinished()]
    """
    site.install("bad", code)
    text = str(refusal_of("bad"))
    assert text.startswith(
        "plugin 'bad': dist-of-bad 1.2.3: worker_core_job_types raised TypeError("
    )
    assert "run" in text


@pytest.mark.parametrize(
    ("job_type", "said"),
    [
        ("Named('fine', 'other')", "the job type 'fine' is fine's already (dist-of-fine 1.2.3)"),
        ("Named('other', 'fine')", "the queue 'fine' is fine's already (dist-of-fine 1.2.3)"),
    ],
)
def test_names_and_queues_belong_to_one_job_type(site: Site, job_type: str, said: str) -> None:
    site.install("fine", FINE)
    site.install("twin", offering(job_type))
    assert str(refusal_of("fine", "twin")) == f"plugin 'twin': dist-of-twin 1.2.3: {said}"
    # Whoever comes first has it.
    assert refusal_of("twin", "fine").plugin == "fine"


def test_one_plugin_from_two_distributions_names_both(site: Site) -> None:
    site.install("twin", FINE, distribution="first-dist", version="1.0")
    site.install("twin", FINE, distribution="second-dist", version="2.0")
    text = str(refusal_of("twin"))
    assert text.startswith("plugin 'twin': brought by ")
    assert "first-dist 1.0" in text
    assert "second-dist 2.0" in text


def test_two_distributions_with_one_plugin_that_is_not_enabled_disturb_nobody(site: Site) -> None:
    site.install("twin", FINE, distribution="first-dist")
    site.install("twin", FINE, distribution="second-dist")
    site.install("fine", FINE)
    assert start("fine").job_types


def test_an_engine_that_its_plugin_does_not_provide_is_named(site: Site) -> None:
    site.install("fine", FINE)
    assert str(refusal_of("fine", engine="fine")) == (
        "plugin 'fine': dist-of-fine 1.2.3: is set as [worker] engine and provides none"
    )


def test_a_job_type_that_needs_an_engine_says_so(site: Site) -> None:
    code = """
    class Needy(Named):
        needs_engine = True

    class P:
        @hookimpl
        def worker_core_job_types(self):
            return [Needy()]
    """
    site.install("needy", code)
    assert str(refusal_of("needy")) == (
        "plugin 'needy': dist-of-needy 1.2.3: job type 'fine' needs an engine, none is set"
    )


def test_a_plugin_that_is_given_twice_is_refused_by_name() -> None:
    class Plain:
        pass

    twice = [(plugin_under_test("plain", Plain), None)] * 2
    with pytest.raises(PluginError, match="plugin 'plain': "):
        compose(twice, engine=None)


def backing_off(*strategies: str) -> str:
    """Return the code of a plugin that brings these backoff strategies, given as expressions."""
    hook = f"    @hookimpl\n    def worker_core_backoff_strategies(self): return [{', '.join(strategies)}]"
    return f"from worker_core import BackoffStrategy as B\n\nclass P:\n{hook}"


def falling_back(*names: str) -> str:
    """Return the code of a plugin that brings fallback strategies of these names."""
    return f"""
from worker_core import FailureClass, Fallback

class F(Fallback):
    handles = frozenset(FailureClass)
    def __init__(self, name): self.name = name
    async def answer(self, failed): return None

class P:
    @hookimpl
    def worker_core_fallbacks(self): return [F(name) for name in {names!r}]
"""


def names_of(composition: Composition) -> list[str]:
    return [strategy.name for strategy in composition.fallbacks]


def test_fallback_strategies_are_in_the_order_of_their_plugins_or_in_one_of_their_own(
    site: Site,
) -> None:
    site.install("one", falling_back("a", "b"))
    site.install("other", falling_back("c"))
    assert names_of(start("one", "other")) == ["a", "b", "c"]
    assert names_of(start("other", "one")) == ["c", "a", "b"]
    assert names_of(start("one", "other", fallbacks=["b", "c", "b"])) == ["b", "c"]
    assert names_of(start("one", "other", fallbacks=[])) == []


def test_a_fallback_strategy_that_nobody_brings_is_refused(site: Site) -> None:
    site.install("one", falling_back("a", "b"))
    assert str(refusal_of("one", fallbacks=["a", "z"])) == (
        "plugin 'z': is in [worker] fallbacks, and no enabled plugin brings it; there are: a, b"
    )


def test_two_fallback_strategies_of_one_name_are_refused(site: Site) -> None:
    site.install("one", falling_back("a"))
    site.install("other", falling_back("a"))
    assert str(refusal_of("one", "other")) == (
        "plugin 'other': dist-of-other 1.2.3: a fallback strategy 'a' is there already"
    )


def test_backoff_strategies_are_known_by_name(site: Site) -> None:
    site.install("one", backing_off("B('a', lambda _: None)", "B('b', lambda _: None)"))
    site.install("other", backing_off("B('c', lambda _: None)"))
    assert list(start("one", "other").backoffs) == ["a", "b", "c"]


def test_two_backoff_strategies_of_one_name_are_refused(site: Site) -> None:
    site.install("one", backing_off("B('a', lambda _: None)"))
    site.install("other", backing_off("B('a', lambda _: None)"))
    assert str(refusal_of("one", "other")) == (
        "plugin 'other': dist-of-other 1.2.3: a backoff strategy 'a' is there already"
    )


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("B('fixed', lambda _: None)", "that name is taken"),
        ("lambda _: None", "worker_core_backoff_strategies returned function"),
    ],
)
def test_what_is_no_backoff_strategy_is_refused(site: Site, strategy: str, said: str) -> None:
    site.install("bad", backing_off(strategy))
    assert said in str(refusal_of("bad"))

"""Plugins are asked in their configured order, and those not enabled are never imported."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from worker_core import Job, JobEvent, JobStep, JobType, QueueSpec, hookimpl
from worker_core._runtime.observers import notifier
from worker_core._runtime.plugins import compose, import_plugin
from worker_core.testing.workers import plugin_under_test

if TYPE_CHECKING:
    from tests.plugins.support import Site

EVENT = JobEvent(
    step=JobStep.CLAIMED,
    job=Job(
        id="1",
        queue="q",
        name="n",
        type="t",
        attempt=1,
        max_attempts=1,
        priority=0,
        created_ms=0,
    ),
)


def make_plugin(name: str, told: list[str]) -> type:
    class Type(JobType[object]):
        request = object
        needs_engine = False
        queues = (QueueSpec(name),)

        async def run(self, request: object, context: object) -> object:
            return None

    Type.name = name
    Type.request = QueueSpec

    class Plugin:
        @hookimpl
        def worker_core_job_types(self) -> list[JobType[object]]:
            return [Type()]

        @hookimpl
        def worker_core_job_event(self, event: JobEvent) -> None:
            told.append(name)
            if name == "bad":
                raise RuntimeError("an observer with a fault")

    return Plugin


@pytest.mark.parametrize("order", list(itertools.permutations(["a", "b", "c"])))
def test_the_configured_order_holds_for_every_hook(order: tuple[str, ...]) -> None:
    told: list[str] = []
    plugins = [(plugin_under_test(name, make_plugin(name, told)), None) for name in order]
    composition = compose(plugins, engine=None)
    assert [job_type.name for job_type in composition.job_types] == list(order)
    assert [name for name, _ in composition.observers] == list(order)
    notify = notifier(composition.observers)
    assert notify is not None
    notify(EVENT)
    assert told == list(order)


def test_pluggys_own_ordering_changes_nothing() -> None:
    told: list[str] = []

    def keen(name: str) -> type:
        plain = make_plugin(name, told)

        class Keen(plain):  # type: ignore[misc, valid-type]
            @hookimpl(tryfirst=True)
            def worker_core_job_types(self) -> list[JobType[object]]:
                types: list[JobType[object]] = super().worker_core_job_types()
                return types

        return Keen

    plugins = [
        (plugin_under_test("calm", make_plugin("calm", told)), None),
        (plugin_under_test("keen", keen("keen")), None),
    ]
    composition = compose(plugins, engine=None)
    assert [job_type.name for job_type in composition.job_types] == ["calm", "keen"]


def test_an_observer_that_raises_is_logged_by_its_plugins_name_and_asked_no_more() -> None:
    told: list[str] = []
    plugins = [(plugin_under_test(name, make_plugin(name, told)), None) for name in ("bad", "good")]
    notify = notifier(compose(plugins, engine=None).observers)
    assert notify is not None
    with capture_logs() as logs:
        notify(EVENT)
        notify(EVENT)
    assert told == ["bad", "good", "good"]
    assert [entry["plugin"] for entry in logs] == ["bad"]


def test_a_plugin_knows_its_hooks() -> None:
    plugin = plugin_under_test("a", make_plugin("a", []))
    assert plugin.hooks() == ["worker_core_job_event", "worker_core_job_types"]


def test_an_installed_plugin_knows_where_it_comes_from(site: Site) -> None:
    site.install("mine", "class P: pass", distribution="my-dist", version="4.5")
    info = import_plugin("mine").info
    assert (info.name, info.distribution, info.version) == ("mine", "my-dist", "4.5")
    assert str(info) == "my-dist 4.5"


def test_a_plugin_that_no_distribution_brings_is_named_as_such() -> None:
    info = plugin_under_test("loose", object).info
    assert str(info) == "unknown distribution ?"


@pytest.mark.parametrize("enabled", [[], ["fine"]], ids=["none", "one"])
def test_a_plugin_that_is_not_enabled_is_never_imported(site: Site, enabled: list[str]) -> None:
    fine = site.install(
        "fine",
        """
        class P:
            @hookimpl
            def worker_core_job_types(self):
                return [Named()]
        """,
    )
    site.install("trap", "raise SystemExit('imported')")
    code = (
        "import json, sys\n"
        "from worker_core.testing.workers import configuration_of\n"
        f"settings = {{'worker': {{'plugins': {enabled!r}, 'engine': 'none'}},\n"
        "            'plugins': {'trap': {'x': 1}}}\n"
        "configuration_of(settings).compose()\n"
        "print(json.dumps([name for name in sys.modules if name.startswith(\n"
        "    ('made_up_', 'worker_core_'))]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **site.environment},
    )
    assert json.loads(done.stdout) == ([fine] if enabled else [])

"""docs/operations.md is true: its tables are held against what the code has."""

from __future__ import annotations

import re
import tomllib
from datetime import timedelta
from pathlib import Path

import attrs

from worker_core._observe.metrics import WorkerMetrics
from worker_core._runtime.configuration import CORE_TABLES
from worker_core._runtime.plugins import import_plugin
from worker_core.durations import parse_duration
from worker_core.errors import FailureClass

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
FIRST_PARTY = sorted(project.parent.name for project in ROOT.glob("plugins/*/pyproject.toml"))


def test_every_metric_is_on_the_page_with_its_kind_and_labels_and_no_other():
    rows = re.findall(r"^\| `(llm_worker_\w+)` \| (\w+) \| (.*?) \|", PAGE, re.MULTILINE)
    written = {
        name.removesuffix("_total"): (kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in rows
    }
    registry = WorkerMetrics("w").registry
    collectors = set(registry._collector_to_names)
    there = {
        collector._name: (
            collector._type,
            tuple(label for label in collector._labelnames if label != "worker_id"),
        )
        for collector in collectors
    }
    assert written == there
    assert all("worker_id" in collector._labelnames for collector in collectors)


def settings_table() -> dict[str, dict[str, str | None]]:
    """Return what the page has of each table: its settings, and their defaults where it has them."""
    section = PAGE.partition("\n## Settings\n")[2].partition("\n### ")[0]
    tables: dict[str, dict[str, str | None]] = {}
    for row in re.findall(r"^\| (`\[.*?|) ?\| (`.*?) \|(.*?)\|", section, re.MULTILINE):
        named, settings, defaults = (re.findall(r"`(.*?)`", cell) for cell in row)
        if named:
            [title] = named
            table = tables.setdefault(title.strip("[]"), {})
        known = len(defaults) == len(settings)
        table.update(zip(settings, defaults if known else [None] * len(settings), strict=True))
    return tables


def shapes() -> dict[str, type]:
    """Return the settings of the core and of every plugin of this repository."""
    core = {shape.TABLE: shape for shape in CORE_TABLES}
    own = {f"plugins.{name}": import_plugin(name).settings for name in FIRST_PARTY}
    return {**core, **{table: shape for table, shape in own.items() if shape is not None}}


def test_the_plugins_of_this_repository_are_all_looked_at():
    assert set(FIRST_PARTY) >= {"chat", "health", "llamacpp", "ollama"}


def test_every_setting_is_on_the_page_and_no_other():
    written = {table: sorted(settings) for table, settings in settings_table().items()}
    assert written == {
        table: sorted(field.name for field in attrs.fields(shape))
        for table, shape in shapes().items()
    }


def test_the_defaults_on_the_page_are_the_settings_own():
    compared = 0
    for table, shape in shapes().items():
        defaults = shape()
        for name, text in settings_table()[table].items():
            default = getattr(defaults, name)
            if text is None or not isinstance(default, str | int | float | timedelta):
                continue
            value = tomllib.loads(f"x = {text}")["x"]
            if isinstance(default, timedelta):
                value = parse_duration(value)
            assert value == default, f"{table}.{name}"
            compared += 1
    assert compared > 30


def test_every_failure_class_is_on_the_page():
    for failure in FailureClass:
        assert f"`{failure.value}: ...`" in PAGE, failure

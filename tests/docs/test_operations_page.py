"""docs/operations.md is true: its tables are held against what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from worker_core._observe.metrics import WorkerMetrics
from worker_core._runtime.configuration import CORE_TABLES
from worker_core.errors import FailureClass

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


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


def test_every_core_setting_is_on_the_page():
    for shape in CORE_TABLES:
        table = PAGE.partition(f"| `[{shape.TABLE}]` |")[2].partition("| `[plugins.")[0]
        for field in attrs.fields(shape):
            assert f"`{field.name}`" in table, f"{shape.TABLE}.{field.name}"


def test_every_failure_class_is_on_the_page():
    for failure in FailureClass:
        assert f"`{failure.value}: ...`" in PAGE, failure

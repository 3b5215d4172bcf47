"""docs/operations.md documents every environment variable, and each sets what the table says."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import attrs
import pytest

from tests._runtime.layers import configure, shown
from worker_core._runtime.plugins import find_plugins, import_plugin
from worker_core.config import CoreSettings, EnvUnit, SettingInfo

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
KNOWN = {
    "WORKER_ID",
    "WORKER_CONCURRENCY",
    "WORKER_TIMEOUT",
    "MAX_CONCURRENT_REQUESTS",
    "REDIS_URL",
    "REDIS_PASSWORD",
    "OLLAMA_BASE_URL",
    "OLLAMA_TIMEOUT",
    "OLLAMA_MAX_RETRIES",
    "ALLOWED_MODELS",
    "WORKER_BATCH_SIZE",
    "ENABLE_BATCH_PROCESSING",
    "BATCH_TIMEOUT",
    "ENABLE_CIRCUIT_BREAKER",
    "ENABLE_MODEL_FALLBACK",
    "FALLBACK_MODELS",
}
"""What the design promises so far."""


@attrs.frozen
class Row:
    """One setting of a line of the table; a variable may set several plugins'."""

    variable: str
    path: str
    unit: str

    @property
    def table(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def plugin(self) -> str | None:
        return self.table.removeprefix("plugins.") if self.table.startswith("plugins.") else None


def read_table() -> list[Row]:
    _, _, section = PAGE.read_text("utf-8").partition("Environment variables\n")
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|([^|]*)\|", section, re.MULTILINE)
    return [
        Row(variable, path, unit.strip())
        for variable, paths, unit in rows
        for path in re.findall(r"`([\w.]+)`", paths)
    ]


ROWS = read_table()


def declared() -> dict[tuple[str, str], attrs.Attribute[Any]]:
    """Every variable that the core and the first-party plugins declare, and what it sets."""
    tables: dict[str, type[Any]] = {
        field.name: type(getattr(CoreSettings(), field.name))
        for field in attrs.fields(CoreSettings)
    }
    for name, (info, *_) in find_plugins().items():
        # Echo is an example, of others.
        if info.distribution == f"worker-core-{name.replace('_', '-')}" and name != "echo":
            tables[f"plugins.{name}"] = import_plugin(name).settings or CoreSettings
    found = {}
    for table, shape in tables.items():
        attrs.resolve_types(shape)
        for field in attrs.fields(shape):
            if (variable := SettingInfo.of(field).env) is not None:
                found[variable, f"{table}.{field.name}"] = field
    return found


def sample_of(field: attrs.Attribute[Any]) -> tuple[str, object]:
    """Return a text that sets a field to something that is not its default, and what it means."""
    kinds = [kind for kind in get_args(field.type) or (field.type,) if kind is not NoneType]
    kind = field.type if get_origin(field.type) is tuple else kinds[0]
    if SettingInfo.of(field).secret:
        return "hunter2", "********"
    if get_origin(kind) is tuple:
        return "one, two", ("one", "two")
    if kind is bool:
        return ("false", False) if field.default else ("true", True)
    if kind is str:
        scheme, mark, _ = str(field.default).partition("://")
        text = f"{scheme}://10.9.8.7:1234" if mark else "sample"
        return text, text
    if kind is timedelta:
        return "12345", timedelta(milliseconds=12345)
    return "17", kind(17)


def test_the_table_is_there_and_names_all_that_is_promised() -> None:
    assert {row.variable for row in ROWS} >= KNOWN
    assert len({(row.variable, row.path) for row in ROWS}) == len(ROWS)


def test_every_variable_that_is_declared_is_documented_and_no_other() -> None:
    assert {(row.variable, row.path) for row in ROWS} == set(declared())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.variable}-{row.path}")
def test_each_variable_changes_its_setting(row: Row) -> None:
    plugins = ["chat"] if row.plugin in {None, "ollama"} else [row.plugin]
    file = {"worker": {"plugins": plugins}}
    before = shown(configure(file))
    text, value = sample_of(declared()[row.variable, row.path])
    after = shown(configure(file, environ={row.variable: text}))
    assert before[row.path][1] == "default"
    assert after[row.path] == (value, f"environment {row.variable}")
    assert before[row.path][0] != value
    # And nothing else.
    assert {path for path in after if after[path] != before[path]} == {row.path}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.variable}-{row.path}")
def test_the_unit_of_each_variable_is_the_one_documented(row: Row) -> None:
    unit = SettingInfo.of(declared()[row.variable, row.path]).env_unit
    assert ("milliseconds" in row.unit) == (unit is EnvUnit.MILLISECONDS)
    assert ("seconds" in row.unit) == (unit is not None)

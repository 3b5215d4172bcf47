"""Where settings come from, laid over one another, every value with its source.

Nothing is interpreted here but the form of environment variables, which are all text: their fields
say what the text means.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import attrs
from dotenv import dotenv_values

from worker_core.config import SettingInfo
from worker_core.durations import parse_duration
from worker_core.errors import Fault

__all__ = ["DEFAULT", "Layers", "Table", "read_file"]

DEFAULT = "default"
_PLUGINS = "plugins"
_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


@attrs.frozen
class Table:
    """The values of one settings table, and where each came from; what is absent is default."""

    path: str
    values: dict[str, object]
    sources: dict[str, str]


def read_file(path: Path) -> tuple[dict[str, Any], list[Fault]]:
    """Read a TOML file; what is wrong with it as a whole comes back as faults."""
    try:
        return tomllib.loads(path.read_text("utf-8")), []
    except tomllib.TOMLDecodeError as error:
        return {}, [Fault("", f"not TOML: {error}", str(path))]
    except (OSError, UnicodeDecodeError) as error:
        return {}, [Fault("", f"cannot be read: {error}", str(path))]


@attrs.frozen
class Layers:
    """All sources but the defaults, in rising order: file, `.env`, environment, flags."""

    file: Mapping[str, Any]
    file_name: str
    dotenv: Mapping[str, str]
    environ: Mapping[str, str]
    flags: Mapping[str, object]
    """By path: `worker.plugins`."""

    @classmethod
    def read(
        cls,
        path: Path | None,
        *,
        flags: Mapping[str, object],
        environ: Mapping[str, str] | None = None,
        dotenv_path: Path | None = None,
    ) -> tuple[Layers, list[Fault]]:
        """Read every source; `.env` is looked for in the working directory by default."""
        data, faults = read_file(path) if path is not None else ({}, [])
        layers = cls(
            file=data,
            file_name=str(path),
            dotenv=_read_dotenv(dotenv_path or Path.cwd() / ".env", faults),
            environ=os.environ if environ is None else environ,
            flags=flags,
        )
        return layers, faults

    def table(self, path: str, shape: type[Any], faults: list[Fault]) -> Table:
        """Lay the sources of one table over one another; faults of form are added to `faults`."""
        table = Table(path, {}, {})
        raw = self._raw(path)
        if isinstance(raw, Mapping):
            for name, value in raw.items():
                table.values[name] = value
                table.sources[name] = self.file_name
        elif raw is not None:
            faults.append(Fault(path, "expected a table", self.file_name))
        attrs.resolve_types(shape)
        for field in attrs.fields(shape):
            info = SettingInfo.of(field)
            for source, variables in ((".env", self.dotenv), ("environment", self.environ)):
                text = variables.get(info.env) if info.env else None
                # An empty variable is how shells and compose files say "not set".
                if text:
                    where = f"{source} {info.env}"
                    _set_from_text(table, field, info, text, where, faults)
            flag = self.flags.get(f"{path}.{field.name}")
            if flag is not None:
                table.values[field.name] = flag
                table.sources[field.name] = "flag"
        return table

    def _raw(self, path: str) -> object:
        raw: object = self.file
        for part in path.split("."):
            raw = raw.get(part) if isinstance(raw, Mapping) else None
        return raw

    def plugin_tables(self) -> list[str]:
        """Return the names of the plugins that the file has a table for."""
        raw = self.file.get(_PLUGINS)
        return list(raw) if isinstance(raw, Mapping) else []

    def top_level(self) -> list[str]:
        """Return the names at the file's top level."""
        return list(self.file)

    def variables(self) -> dict[str, str]:
        """Return every variable that is set, with its source."""
        return dict.fromkeys(self.dotenv, ".env") | dict.fromkeys(self.environ, "environment")


def _read_dotenv(path: Path, faults: list[Fault]) -> dict[str, str]:
    try:
        values = dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        faults.append(Fault("", f"cannot be read: {error}", str(path)))
        return {}
    return {name: value for name, value in values.items() if value is not None}


def _set_from_text(
    table: Table,
    field: attrs.Attribute[Any],
    info: SettingInfo,
    text: str,
    source: str,
    faults: list[Fault],
) -> None:
    try:
        value = _read_text(text, field.type, info)
    except ValueError as error:
        faults.append(Fault(f"{table.path}.{field.name}", str(error), source))
        # A refused value must not fall back to a lower layer unseen: the fault is enough.
        table.values.pop(field.name, None)
        return
    table.values[field.name] = value
    table.sources[field.name] = source


def _read_text(text: str, kind: Any, info: SettingInfo) -> object:
    """Read a variable's text as its field means it; raises `ValueError`."""
    options = [option for option in get_args(kind) if option is not type(None)]
    if get_origin(kind) is Union or type(kind).__name__ == "UnionType":
        kind = options[0]
    if kind is timedelta:
        return _read_duration(text, info)
    if get_origin(kind) in {tuple, list}:
        return [part.strip() for part in text.split(",") if part.strip()]
    reader = _READERS.get(kind)
    return reader(text) if reader else text


def _read_duration(text: str, info: SettingInfo) -> timedelta:
    if info.env_unit is not None:
        try:
            return float(text) * info.env_unit.value
        except OverflowError:
            raise ValueError(f"a duration too long to be meant: {text!r}") from None
        except ValueError:
            pass  # with a unit of its own, then
    return parse_duration(text)


def _read_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in _TRUE | _FALSE:
        return lowered in _TRUE
    raise ValueError(f"expected true or false, found {text!r}")


def _read_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"expected a whole number, found {text!r}") from None


def _read_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a number, found {text!r}") from None


_READERS: dict[Any, Callable[[str], object]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
}

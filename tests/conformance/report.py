"""The report at the end: every name of the reference list, and how it went on each server."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.reference import PEER_TESTS, SYMPTOMS
from tests.conformance.servers import ServerKind

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["ConformanceReport"]


class ConformanceReport:
    """A pytest plugin that keeps the outcome of each named test for each server."""

    def __init__(self) -> None:
        self._passed: dict[tuple[str, str], list[bool]] = defaultdict(list)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        # A test has several phases; a failed set-up or tear-down is a failure too.
        if report.when == "call" or report.failed:
            for mark in (*item.iter_markers("peer"), *item.iter_markers("symptom")):
                self._passed[mark.args[0], _server_of(item)].append(report.passed)
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._passed:
            return
        servers = {kind: _heading(kind) for kind in ServerKind}
        for title, names in (
            ("BullMQ's own tests, written for our worker", PEER_TESTS),
            ("Symptoms that users report, provoked", SYMPTOMS),
        ):
            terminalreporter.section(title, "-")
            rows = [(name, *(self._said(name, kind) for kind in servers)) for name in names]
            _write_table(terminalreporter, [("", *servers.values()), *rows])

    def _said(self, name: str, kind: ServerKind) -> str:
        passed = self._passed.get((name, kind.value))
        if passed is None:
            return "not run"
        return "passed" if all(passed) else "FAILED"


def _server_of(item: pytest.Item) -> str:
    callspec: Any = getattr(item, "callspec", None)
    kind: ServerKind | None = callspec.params.get("valkey_server") if callspec else None
    return kind.value if kind else ""


def _heading(kind: ServerKind) -> str:
    try:
        return kind.version()
    except RuntimeError:
        return f"no {kind.value}"


def _write_table(terminal: pytest.TerminalReporter, rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminal.line("  ".join(cells).rstrip())

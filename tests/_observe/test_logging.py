"""What is written to standard error."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from worker_core._observe.logging import configure_logging
from worker_core.config import LogSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS = ["console", "json"]
SECRET = "secret" * 2  # not as it stands in lines of code, which traces show


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the process's logs as they were."""
    root, own = logging.getLogger(), logging.getLogger("worker_core")
    before = (root.handlers[:], root.level, own.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])
    structlog.reset_defaults()


def fail(prompt: str) -> None:
    raise RuntimeError(f"refused after {len(prompt)} characters")


def log_a_failure(logger: structlog.typing.FilteringBoundLogger | logging.Logger) -> None:
    try:
        fail(SECRET)
    except RuntimeError:
        logger.exception("it failed")


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("make_logger", [structlog.get_logger, logging.getLogger])
def test_a_failure_is_logged_with_its_trace_and_without_the_locals(
    format_, make_logger, capsys
) -> None:
    configure_logging(LogSettings(format=format_))
    log_a_failure(make_logger("worker_core.tests"))
    written = capsys.readouterr().err
    assert f"RuntimeError: refused after {len(SECRET)} characters" in written
    assert "in fail" in written
    assert SECRET not in written


@pytest.mark.parametrize("format_", FORMATS)
def test_content_is_logged_only_where_that_is_asked_for(format_, capsys) -> None:
    for content in (False, True):
        configure_logging(LogSettings(format=format_, content=content))
        structlog.get_logger().info("asked", prompt=SECRET)
        assert (SECRET in capsys.readouterr().err) == content

"""RESULTS.md: a section for each benchmark, each written by its own run. Pure but for `publish`."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["PAGE", "publish", "with_section"]

PAGE = Path(__file__).parent / "RESULTS.md"
_TITLE = "# Results\n"
_SECTION = re.compile(r"^(?=## )", re.MULTILINE)


def with_section(page: str, section: str) -> str:
    """Return the page with a section in the place of the one of its heading, or at the end."""
    _, *others = _SECTION.split(page)
    heading = _heading(section)
    new = section.strip("\n") + "\n"
    kept = [other.strip("\n") + "\n" for other in others]
    headings = [_heading(other) for other in kept]
    if heading in headings:
        kept[headings.index(heading)] = new
    else:
        kept.append(new)
    return "\n".join([_TITLE, *kept])


def publish(section: str) -> None:
    """Write a section into RESULTS.md and leave the others as they are."""
    page = PAGE.read_text("utf-8") if PAGE.exists() else ""
    PAGE.write_text(with_section(page, section), "utf-8")


def _heading(section: str) -> str:
    return section.split("\n", 1)[0].strip()

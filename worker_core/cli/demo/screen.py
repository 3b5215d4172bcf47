"""What the demo looks like."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from typing import Any

    from rich.console import Console

    from worker_core.cli.demo.exhibits import Exhibit
    from worker_core.client import Result

__all__ = ["draw", "shown"]

_REFRESH_SECONDS = 0.1
_PROMPT_WIDTH = 25
_ANSWER_WIDTH = 24
"""Together with the other columns as wide as a page."""


@contextmanager
def shown(
    console: Console, picture: Callable[[], Table]
) -> Iterator[Callable[[], Coroutine[Any, Any, None]]]:
    """Show a picture; the body is given what keeps it up to date until it is cancelled."""
    with Live(picture(), console=console, auto_refresh=False, transient=False) as live:

        async def refresh() -> None:
            while True:
                live.update(picture(), refresh=True)
                await anyio.sleep(_REFRESH_SECONDS)

        yield refresh
        live.update(picture(), refresh=True)


def draw(exhibits: Sequence[Exhibit]) -> Table:
    """Return the table of the jobs as they are now."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("job", no_wrap=True)
    table.add_column("prompt", no_wrap=True, width=_PROMPT_WIDTH)
    table.add_column("state", min_width=10)
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("answer", no_wrap=True, width=_ANSWER_WIDTH)
    for name in ("queued", "admission", "first", "total"):
        table.add_column(name, justify="right", no_wrap=True)
    for exhibit in exhibits:
        table.add_row(
            exhibit.kind,
            # The end of a prompt is what is being completed; markup it is not, and no answer is.
            Text(exhibit.prompt[-_PROMPT_WIDTH:].lstrip()),
            _state(exhibit),
            str(exhibit.tokens or ""),
            Text(" ".join(exhibit.answer.split())[:_ANSWER_WIDTH]),
            *_times(exhibit.result),
        )
    return table


def _state(exhibit: Exhibit) -> Text:
    if not exhibit.ended:
        return Text(exhibit.state)
    return Text("right", "green") if exhibit.good else Text("wrong", "red")


def _times(result: Result | None) -> tuple[str, ...]:
    if result is None:
        return ("", "", "", "")
    times = result.timings
    return tuple(
        "" if value is None else f"{value / 1000:.2f} s"
        for value in (
            times.queue_wait_ms,
            times.admission_ms,
            times.first_token_ms,
            times.total_ms,
        )
    )

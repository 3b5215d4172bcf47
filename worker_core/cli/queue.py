"""`worker-core queue`: queues from outside; needs no configuration and imports no plugin."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from worker_core._bullmq import counting
from worker_core._bullmq.calls import COUNTED_STATES, count_jobs, now_ms
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.replies import read_counts
from worker_core.cli.options import Duration
from worker_core.cli.plain_links import plain_link
from worker_core.cli.redis_options import place_of, redis_options
from worker_core.client.flows import Command
from worker_core.durations import format_duration
from worker_core.errors import RedisError, ReplyError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from worker_core.client.plain_link import PlainLink
    from worker_core.redis import Arg

__all__ = ["command"]

_PAGE = 1000
_WIDE = 140
_SHORTEST_INTERVAL = timedelta(milliseconds=100)


@attrs.frozen(kw_only=True)
class _Stats:
    """One queue at one moment."""

    name: str
    exists: bool
    paused: bool
    counts: dict[str, int]
    workers: tuple[str, ...] | None
    """`None` where the server does not tell."""
    oldest_waiting_ms: int | None
    """How long the job has waited that has waited longest of those that are next."""


@click.group("queue")
def command() -> None:
    """Look at queues."""


@command.command()
@click.argument("names", metavar="[QUEUE]...", nargs=-1)
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--interval",
    type=Duration(_SHORTEST_INTERVAL),
    metavar="DURATION",
    default="2s",
    show_default=True,
    help="How often to look, with --watch.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch an object a line.")
@redis_options
def stats(
    *,
    names: tuple[str, ...],
    watch: bool,
    interval: timedelta,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Count the jobs of each QUEUE by state; without names those of every queue there is."""
    place = place_of(config, prefix, redis_url)
    with plain_link(place) as link:
        reader = _Reader(link, place.prefix)
        # Found once: looking for them goes through all keys of the server.
        queues = [_keys(place.prefix, name) for name in names] or reader.find()
        found = reader.read(queues)
        for one in found:
            if not one.exists:
                click.echo(f"notice: there is no queue {one.name!r} yet", err=True)
        if watch:
            _watch(_again(reader, queues, found, interval), as_json=as_json)
        else:
            _show(found, as_json=as_json)


def _keys(prefix: str, name: str) -> QueueKeys:
    try:
        return QueueKeys(prefix, name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


class _Reader:
    """Asks a server about its queues."""

    def __init__(self, link: PlainLink, prefix: str) -> None:
        self._link = link
        self._prefix = prefix

    def _call(self, *args: Arg) -> object:
        return self._link.carry(Command(args))

    def find(self) -> list[QueueKeys]:
        """Return every queue under the prefix."""
        pattern = counting.queues_pattern(self._prefix)
        cursor: Arg = "0"
        names: set[str] = set()
        while True:
            reply = self._call("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE)
            match reply:
                case [bytes(following), [*found]]:
                    keys = (key for key in found if isinstance(key, bytes))
                    read = (counting.read_queue_name(self._prefix, key) for key in keys)
                    names.update(name for name in read if name is not None)
                    if following == b"0":
                        return [QueueKeys(self._prefix, name) for name in sorted(names)]
                    cursor = following
                case _:
                    raise ReplyError(f"SCAN was answered with {reply!r:.80}")

    def read(self, queues: Sequence[QueueKeys]) -> list[_Stats]:
        """Return how each queue stands."""
        try:
            clients = self._call("CLIENT", "LIST")
        except ReplyError:
            clients = None  # a hosted server may refuse; the counts are worth showing without it
        return [self._read_one(keys, clients) for keys in queues]

    def _read_one(self, keys: QueueKeys, clients: object) -> _Stats:
        meta = self._call("HGETALL", keys.meta)
        fields = meta[::2] if isinstance(meta, list) else []
        counts = read_counts(self._link.carry(count_jobs(keys)))
        return _Stats(
            name=keys.name,
            exists=bool(fields),
            paused=b"paused" in fields,
            counts={_shown(state): count for state, count in counts.items()},
            workers=None if clients is None else counting.read_worker_names(keys, clients),
            oldest_waiting_ms=self._oldest(keys),
        )

    def _oldest(self, keys: QueueKeys) -> int | None:
        """Return the greatest age among the jobs that are next."""
        ages = []
        for args in counting.find_next(keys):
            job_id = counting.read_next(self._call(*args))
            added = None if job_id is None else self._call("HGET", keys.job(job_id), "timestamp")
            if isinstance(added, bytes) and added.isdigit():
                # By this machine's clock, which may be behind the producer's.
                ages.append(max(0, now_ms() - int(added)))
        return max(ages, default=None)


def _again(
    reader: _Reader, queues: Sequence[QueueKeys], found: list[_Stats], interval: timedelta
) -> Iterator[list[_Stats] | RedisError]:
    """Yield how the queues stand, again and again; an outage is shown, not the end."""
    yield found
    while True:
        time.sleep(interval.total_seconds())
        try:
            yield reader.read(queues)
        except RedisError as error:
            yield error


def _watch(moments: Iterator[list[_Stats] | RedisError], *, as_json: bool) -> None:
    """Show each moment in place of the one before, or as a line of its own, until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        if as_json:
            for moment in moments:
                click.echo(json.dumps(_plain(moment)))
            return
        with Live(console=_console(), auto_refresh=False) as live:
            for moment in moments:
                live.update(_view(moment), refresh=True)


def _show(found: list[_Stats], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_plain(found)))
    elif found:
        _console().print(_table(found))
    else:
        click.echo("no queues")


def _console() -> Console:
    # Wide enough for the table also where the output goes to a file.
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)


def _plain(shown: list[_Stats] | RedisError) -> dict[str, object]:
    """Return a moment as JSON has it."""
    body: dict[str, object] = {"timestamp": datetime.now(UTC).isoformat(timespec="milliseconds")}
    if isinstance(shown, RedisError):
        return {**body, "error": str(shown)}
    return {**body, "queues": [attrs.asdict(one) for one in shown]}


def _view(shown: list[_Stats] | RedisError) -> RenderableType:
    if isinstance(shown, RedisError):
        return Group(f"error: {shown}", "trying again; Ctrl-C ends")
    return _table(shown)


def _table(found: list[_Stats]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("queue", no_wrap=True)
    for state in COUNTED_STATES:
        table.add_column(_shown(state).replace("-", " "), justify="right")
    table.add_column("workers", justify="right")
    table.add_column("oldest waiting", justify="right")
    for one in found:
        name = f"{one.name} (paused)" if one.paused else one.name
        counts = (str(count) for count in one.counts.values())
        workers = "?" if one.workers is None else str(len(one.workers))
        table.add_row(name, *counts, workers, _age(one.oldest_waiting_ms))
    return table


def _shown(state: str) -> str:
    """Return people's word for a state."""
    return "waiting" if state == "wait" else state


def _age(ms: int | None) -> str:
    if ms is None:
        return ""
    # Whole seconds, but for the first: nobody reads "2d3h4m5s678ms".
    return format_duration(timedelta(milliseconds=ms if ms < 1000 else ms // 1000 * 1000))

"""`worker-core dead-letter`: jobs that failed for good, seen, run again, thrown away."""

from __future__ import annotations

import functools
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import attrs
import click

from worker_core.cli.job_client import job_client
from worker_core.cli.options import EXIT_REFUSED, Duration, fail, print_table
from worker_core.cli.redis_options import redis_options
from worker_core.client import JobRef, LetterFilter, LetterRetry
from worker_core.dead_letters import ERROR_CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta
    from pathlib import Path

    from worker_core.client import DeadLetter, FoundLetter, SyncClient

__all__ = ["command"]

F = TypeVar("F", bound="Callable[..., Any]")

_ERROR_CHARS = 100


@click.group("dead-letter")
def command() -> None:
    """Look at jobs that failed for good, run them again, throw them away."""


def _filter_options(function: F) -> F:
    """Add the options that say which letters are meant; the command gets them as `where`."""

    @functools.wraps(function)
    def with_filter(
        *,
        classes: tuple[str, ...],
        model: str | None,
        older_than: timedelta | None,
        newer_than: timedelta | None,
        **others: object,
    ) -> object:
        where = LetterFilter(
            error_classes=classes, model=model, older_than=older_than, newer_than=newer_than
        )
        return function(where=where, **others)

    age = Duration()
    known = ", ".join(ERROR_CLASSES)
    for option in (
        click.option("--newer-than", type=age, metavar="DURATION", help="Failed since: 30m, 12h."),
        click.option("--older-than", type=age, metavar="DURATION", help="Failed before: 12h, 7d."),
        click.option("--model", help="Asked for this model."),
        click.option(
            "--class",
            "classes",
            multiple=True,
            type=click.Choice(ERROR_CLASSES),
            metavar="CLASS",
            help=f"Failed so; may be given again: {known}.",
        ),
        click.option(
            "--queue",
            "queues",
            multiple=True,
            default=("llm-chat",),
            show_default=True,
            help="Whose jobs they were; may be given again.",
        ),
    ):
        with_filter = option(with_filter)
    return cast("F", with_filter)


@command.command("list")
@_filter_options
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many at most."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all there is, a line for each.")
@redis_options
def list_letters(
    *,
    queues: tuple[str, ...],
    where: LetterFilter,
    limit: int,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Print jobs that failed for good and that nobody has dealt with yet, the newest first."""
    with job_client(config, prefix, redis_url) as client:
        found = _find(client, queues, where, limit)
    if as_json:
        for one in found:
            click.echo(json.dumps({"id": one.ref.id, **one.letter.wire()}))
    elif found:
        headers = ("id", "queue", "class", "model", "failed", "attempts", "error")
        print_table(headers, map(_row, found))
    else:
        click.echo("no dead letters", err=True)


@command.command()
@click.argument("letter_id", metavar="ID")
@click.option("--queue", default="llm-chat", show_default=True, help="Whose job it was.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all there is.")
@redis_options
def show(
    *,
    letter_id: str,
    queue: str,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Print one dead letter: the job, why it failed, and each of its attempts."""
    ref = _ref(letter_id, queue)
    with job_client(config, prefix, redis_url) as client:
        letter = client.dead_letter(ref)
    if letter is None:
        fail(_unknown(ref, queue))
    if as_json:
        click.echo(json.dumps({"id": letter_id, **letter.wire()}, indent=2))
        return
    for name, value in _lines_of(letter):
        click.echo(f"{name:<10} {value}")


@attrs.frozen
class _Wish:
    """Which letters a command is to deal with, as it was told."""

    ids: tuple[str, ...]
    queues: tuple[str, ...]
    where: LetterFilter
    whole: bool
    """Whether `--all` was given."""

    def check(self) -> None:
        """End the command where that is nothing, or two things."""
        filtered = self.where != LetterFilter()
        if self.ids and (filtered or self.whole):
            raise click.UsageError("give IDs or say which by options, not both")
        if self.ids and len(self.queues) > 1:
            raise click.UsageError("IDs are of one queue: give --queue once")
        if not (self.ids or filtered or self.whole):
            raise click.UsageError("say which: IDs, --class, --model, --older-than, ..., or --all")

    @property
    def place(self) -> str:
        """Whose jobs they were."""
        return ", ".join(self.queues)

    def letters(self, client: SyncClient) -> list[JobRef]:
        """Return what names them."""
        if self.ids:
            return [_ref(letter_id, self.queues[0]) for letter_id in self.ids]
        return [one.ref for one in _find(client, self.queues, self.where, None)]


def _wish_options(function: F) -> F:
    """Add what says which letters are meant, by ID or otherwise; the command gets it as `wish`."""

    @functools.wraps(function)
    def with_wish(
        *,
        ids: tuple[str, ...],
        queues: tuple[str, ...],
        where: LetterFilter,
        whole: bool,
        **others: object,
    ) -> object:
        wish = _Wish(ids, queues, where, whole)
        wish.check()
        return function(wish=wish, **others)

    for option in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--all", "whole", is_flag=True, help="All of the queue's."),
        _filter_options,
        click.argument("ids", metavar="[ID]...", nargs=-1),
    ):
        with_wish = option(with_wish)
    return cast("F", with_wish)


@command.command()
@_wish_options
@redis_options
def retry(
    *,
    wish: _Wish,
    yes: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Put jobs back on their queues, by ID or by what the options say.

    One that still stands among the failed has one attempt more, as after `job.retry()` in Node;
    one that is gone is added anew, with all of its attempts. Its letter is removed. Asks first
    where not told by ID. Exits with 1 where there is no such letter.
    """
    troubles = []
    with job_client(config, prefix, redis_url) as client:
        refs = wish.letters(client)
        if not wish.ids:
            _confirm(f"{_counted(refs)} to be put back on {wish.place}", refs, yes=yes)
        for ref in refs:
            outcome = client.retry_dead_letter(ref)
            if outcome is LetterRetry.UNKNOWN:
                troubles.append(_unknown(ref, wish.place))
            else:
                click.echo(f"{ref.id} {_WORDS[outcome]}")
    if troubles:
        fail("\n".join(troubles))


@command.command()
@_wish_options
@redis_options
def purge(
    *,
    wish: _Wish,
    yes: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Throw dead letters away, by ID or by what the options say.

    Asks first. The failed jobs themselves are left where they are. Exits with 1 where there is no
    such letter.
    """
    with job_client(config, prefix, redis_url) as client:
        refs = wish.letters(client)
        _confirm(f"{_counted(refs)} of {wish.place} to be thrown away", refs, yes=yes)
        kept = [ref for ref in refs if not client.remove(ref)]
    click.echo(f"{_counted(refs, kept)} thrown away")
    if kept:
        fail("\n".join(f"{ref} does not exist, or somebody has it" for ref in kept))


_WORDS = {
    LetterRetry.PUT_BACK: "is put back: it waits again",
    LetterRetry.ADDED: "is added anew: it was gone from its queue",
    LetterRetry.THERE: "is kept: the job is on its queue and has not failed, or its id is another's",
}


def _find(
    client: SyncClient, queues: Sequence[str], where: LetterFilter, limit: int | None
) -> list[FoundLetter]:
    found = [
        one
        for queue in dict.fromkeys(queues)
        for one in client.dead_letters(queue, where=where, limit=limit)
    ]
    found.sort(key=lambda one: one.letter.failed_at_ms, reverse=True)
    return found[:limit]


def _confirm(what: str, refs: Sequence[JobRef], *, yes: bool) -> None:
    """Go on where the operator says so; without a terminal only where `--yes` has said it."""
    if yes or not refs:
        return
    if not sys.stdin.isatty():
        _refuse(f"{what}: there is no terminal to ask on; give --yes")
    click.confirm(f"{what}: go on?", abort=True, err=True)


def _refuse(message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(EXIT_REFUSED)


def _counted(refs: Sequence[JobRef], but: Sequence[JobRef] = ()) -> str:
    number = len(refs) - len(but)
    return f"{number} dead letter{'' if number == 1 else 's'}"


def _ref(letter_id: str, queue: str) -> JobRef:
    return JobRef(letter_id, f"{queue}-dead")


def _unknown(ref: JobRef, queue: str) -> str:
    return f"there is no dead letter {ref.id} of {queue}"


def _row(one: FoundLetter) -> tuple[str, ...]:
    letter = one.letter
    error = " ".join(letter.error.message.split())
    cut = len(error) > _ERROR_CHARS
    return (
        one.ref.id,
        letter.job.queue,
        letter.error.error_class,
        letter.model or "",
        _moment(letter.failed_at_ms),
        str(len(letter.attempts)),
        f"{error[:_ERROR_CHARS]}..." if cut else error,
    )


def _lines_of(letter: DeadLetter) -> Iterator[tuple[str, str]]:
    job = letter.job
    yield "job", f"{job.id} ({job.name}) on {job.queue}"
    yield "failed", f"{_moment(letter.failed_at_ms)} on {letter.worker}"
    yield "class", letter.error.error_class
    yield "error", letter.error.message
    if letter.model is not None:
        yield "model", letter.model
    yield "created", _moment(job.created_ms)
    yield "options", json.dumps(job.opts)
    yield "data", json.dumps(job.data)
    for number, one in enumerate(letter.attempts, 1):
        yield f"attempt {number}", f"{_moment(one.at_ms)} on {one.worker}: {one.error}"


def _moment(ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
    return moment.isoformat(sep=" ", timespec="seconds")

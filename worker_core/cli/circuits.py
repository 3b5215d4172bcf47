"""`worker-core circuits`: the circuits of every running worker, from outside."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from worker_core.circuit import CircuitState
from worker_core.cli.options import fail, print_table, timeout_option
from worker_core.cli.plain_links import REPLY_SECONDS, plain_link
from worker_core.cli.redis_options import place_of, redis_options
from worker_core.client.flows import Command
from worker_core.control import (
    ControlAction,
    ControlAnswer,
    ControlRequest,
    answer_key,
    control_channel,
    read_answer,
    write,
)
from worker_core.durations import format_duration

if TYPE_CHECKING:
    from worker_core.circuit import CircuitStanding
    from worker_core.cli.redis_options import Place
    from worker_core.client.plain_link import PlainLink

__all__ = ["command"]

_LOOK_SECONDS = REPLY_SECONDS / 5
"""How long the server holds one wait for an answer."""


@attrs.frozen
class _Answers:
    """What came back, and how many workers were told."""

    heard: int
    answers: tuple[ControlAnswer, ...]


@click.group("circuits")
def command() -> None:
    """Ask running workers about their circuits, and close them."""


@command.command("list")
@timeout_option("How long to wait for answers.", default="2s", positive=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@redis_options
def list_circuits(
    *,
    timeout: timedelta,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Show the circuits of every worker that answers.

    Exits with 1 where one that was asked does not answer, or none was.
    """
    request = ControlRequest(action=ControlAction.LIST_CIRCUITS)
    _show(_ask(place_of(config, prefix, redis_url), request, timeout), as_json=as_json)


@command.command()
@click.argument("circuit", metavar="[NAME]", required=False)
@click.option("--host", help="The circuits of this host alone, such as 127.0.0.1:11434.")
@timeout_option("How long to wait for answers.", default="2s", positive=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@redis_options
def reset(
    *,
    circuit: str | None,
    host: str | None,
    timeout: timedelta,
    as_json: bool,
    config: Path | None,
    prefix: str | None,
    redis_url: str | None,
) -> None:
    """Close the circuit NAME, such as chat:llama3 or host, in every worker; without NAME all.

    Shows the circuits that there were of that name. Exits with 1 where a worker that was asked does
    not answer, or none was.
    """
    request = ControlRequest(action=ControlAction.RESET_CIRCUITS, circuit=circuit, host=host)
    _show(_ask(place_of(config, prefix, redis_url), request, timeout), as_json=as_json)


def _ask(place: Place, request: ControlRequest, timeout: timedelta) -> _Answers:
    with plain_link(place) as link:
        published = link.carry(Command(("PUBLISH", control_channel(place.prefix), write(request))))
        heard = published if isinstance(published, int) else 0
        until = time.monotonic() + timeout.total_seconds()
        answers: list[ControlAnswer] = []
        key = answer_key(place.prefix, request)
        while len(answers) < heard and (left := until - time.monotonic()) > 0:
            answer = _next_answer(link, key, min(left, _LOOK_SECONDS))
            if answer is not None:
                answers.append(answer)
        return _Answers(heard, tuple(sorted(answers, key=lambda answer: answer.worker)))


def _next_answer(link: PlainLink, key: str, seconds: float) -> ControlAnswer | None:
    # Never 0, which is "for ever".
    match link.carry(Command(("BLPOP", key, max(round(seconds, 3), 0.01)))):
        case [_, bytes(body)]:
            return read_answer(body)
        case _:
            return None


def _show(found: _Answers, *, as_json: bool) -> None:
    if as_json:
        workers = [_plain(answer) for answer in found.answers]
        click.echo(json.dumps({"heard": found.heard, "workers": workers}))
    else:
        rows = [_row(answer.worker, one) for answer in found.answers for one in answer.circuits]
        headers = ("worker", "host", "circuit", "state", "failed", "half open in")
        if rows:
            print_table(headers, rows)
        else:
            click.echo("no circuits")
        click.echo(f"{len(found.answers)} of {found.heard} workers answered", err=True)
    if not found.heard:
        fail("no worker heard the question")
    if len(found.answers) < found.heard:
        fail(f"{found.heard - len(found.answers)} workers heard the question and did not answer")


def _plain(answer: ControlAnswer) -> dict[str, object]:
    circuits = [{**attrs.asdict(one), "state": one.state.value} for one in answer.circuits]
    return {"worker": answer.worker, "circuits": circuits}


def _row(worker: str, one: CircuitStanding) -> tuple[str, ...]:
    opens = ""
    if one.state is CircuitState.OPEN:
        opens = format_duration(timedelta(seconds=round(one.open_seconds)))
    failed = f"{one.failures} of {one.calls}" if one.calls else ""
    return worker, one.host, one.circuit, one.state.value.replace("_", " "), failed, opens

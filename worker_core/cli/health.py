"""`worker-core health`: asks a worker's health server; needs no configuration."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs
import click

from worker_core.cli.options import EXIT_FAILED, fail, timeout_option
from worker_core.durations import format_duration

if TYPE_CHECKING:
    from worker_core.engine import JSON

__all__ = ["command"]

_LIVE, _READY = "live", "ready"


class _Unreachable(Exception):
    """No health server answered; the message says why."""


@attrs.frozen
class _Answer:
    """What a health server said."""

    good: bool
    body: dict[str, JSON]


@click.group("health")
def command() -> None:
    """Ask a worker how it is."""


@command.command()
@click.option(
    "--url", default="http://127.0.0.1:3008", show_default=True, help="The health server's."
)
@click.option("--live", "probe", flag_value=_LIVE, help="Ask whether the process is alive.")
@click.option(
    "--ready", "probe", flag_value=_READY, default=_READY, help="Ask whether jobs run. (default)"
)
@timeout_option("How long the whole answer may take.", default="2s", positive=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the answer as it came.")
def check(*, url: str, probe: str, timeout: timedelta, as_json: bool) -> None:
    """Exit with 0 when the worker is ready (or alive), else with 1, and say what is wrong."""
    try:
        answer = _ask(url, probe, timeout)
    except _Unreachable as error:
        if not as_json:
            fail(str(error))
        click.echo(json.dumps({"status": "unreachable", "reason": str(error)}))
        sys.exit(EXIT_FAILED)
    if as_json:
        click.echo(json.dumps(answer.body))
    else:
        _print(answer, probe)
    if not answer.good:
        sys.exit(EXIT_FAILED)


def _ask(url: str, probe: str, timeout: timedelta) -> _Answer:
    # Only here: help is asked for more often than health.
    import anyio  # noqa: PLC0415
    import httpx  # noqa: PLC0415

    async def ask() -> httpx.Response:
        # httpx has clocks for parts of an answer; this one is for all of it.
        with anyio.fail_after(timeout.total_seconds()):
            # A proxy that the environment names is for other addresses than this.
            async with httpx.AsyncClient(trust_env=False, timeout=None) as client:  # noqa: S113
                return await client.get(f"{url.rstrip('/')}/health/{probe}")

    try:
        response = anyio.run(ask, backend="trio")
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise click.UsageError(f"--url: {error}") from None
    except TimeoutError:
        limit = format_duration(timeout)
        raise _Unreachable(f"{url} did not answer within {limit}") from None
    except httpx.HTTPError as error:
        raise _Unreachable(f"{url} could not be reached: {error}") from None
    return _read(url, response.status_code, response.content)


def _read(url: str, code: int, content: bytes) -> _Answer:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if code not in {200, 503} or not isinstance(body, dict) or "workerId" not in body:
        raise _Unreachable(f"{url} answered with {code}, and not as a worker's health server does")
    return _Answer(code == 200, body)


def _print(answer: _Answer, probe: str) -> None:
    body = answer.body
    click.echo(f"{body.get('workerId')}: {str(body.get('status', probe)).replace('_', ' ')}")
    reasons, services = body.get("reasons"), body.get("services")
    reasons = reasons if isinstance(reasons, dict) else {}
    for name, state in services.items() if isinstance(services, dict) else ():
        why = f": {reasons[name]}" if name in reasons else ""
        click.echo(f"  {name} {state}{why}")
    if "reason" in body:
        click.echo(f"  {body['reason']}")

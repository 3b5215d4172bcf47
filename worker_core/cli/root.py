"""`worker-core` itself: its commands, and `worker-core --plugins ...` as the short way to run."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

import click

from worker_core.cli.options import config_options
from worker_core.cli.run import run, run_worker

__all__ = ["main"]

_COMMANDS = {
    "batch": "Submit files of requests in OpenAI's form, and fetch the answers.",
    "circuits": "Ask running workers about their circuits, and close them.",
    "health": "Ask a worker how it is.",
    "queue": "Look at queues.",
    "demo": "Run jobs of every kind on a real model, everything embedded.",
    "config": "Show and check settings.",
    "jobs": "Add jobs and look at them.",
    "plugins": "List plugins.",
    "dead-letter": "Look at jobs that failed for good, run them again.",
}
_ENTRY_POINTS = "worker_core.commands"


class _LazyCommands(click.Group):
    """Imports a command when it is called, so that help and administration stay quick.

    Plugins bring commands by the entry-point group `worker_core.commands`.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        foreign = [entry_point.name for entry_point in entry_points(group=_ENTRY_POINTS)]
        return sorted({*super().list_commands(ctx), *_COMMANDS, *foreign})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            module = importlib.import_module(f"worker_core.cli.{cmd_name.replace('-', '_')}")
            command: click.Command = module.command
            return command
        for entry_point in entry_points(group=_ENTRY_POINTS, name=cmd_name):
            return _load(entry_point)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in _COMMANDS:
                rows.append((name, _COMMANDS[name]))
                continue
            own = super().get_command(ctx, name)
            rows.append((name, own.get_short_help_str() if own else "From a plugin."))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _load(entry_point: EntryPoint) -> click.Command:
    dist = entry_point.dist
    owner = f"{dist.name} {dist.version}" if dist else "an unknown distribution"
    try:
        loaded = entry_point.load()
    except Exception as error:  # importing runs foreign code
        raise click.ClickException(
            f"command {entry_point.name!r} cannot be imported from {owner}: {error!r}"
        ) from error
    if not isinstance(loaded, click.Command):
        raise click.ClickException(f"command {entry_point.name!r} of {owner} is no click command")
    return loaded


@click.group(cls=_LazyCommands, invoke_without_command=True)
@click.version_option(version("worker-core"), prog_name="worker-core")
@config_options
@click.option("--embedded", is_flag=True, help="Bring an embedded Valkey, for development.")
@click.pass_context
def main(
    ctx: click.Context,
    config: Path | None,
    plugins: str | None,
    engine: str | None,
    redis_url: str | None,
    embedded: bool,
) -> None:
    """Run LLM jobs from BullMQ queues.

    With --plugins or --config and no command, a worker runs: `worker-core --plugins chat`.
    """
    if ctx.invoked_subcommand is not None:
        if any((config, plugins, engine, redis_url, embedded)):
            raise click.UsageError(
                f"give these options behind the command: worker-core {ctx.invoked_subcommand} ..."
            )
        return
    if not (config or plugins or embedded):
        click.echo(ctx.get_help())
        return
    run_worker(config, plugins, engine, redis_url, embedded=embedded)


main.add_command(run)

"""`worker-core run`: a worker in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from worker_core.cli.options import config_options, load_configuration, refuse
from worker_core.errors import WorkerCoreError

__all__ = ["run", "run_worker"]

DATA_FOLDER = Path(".worker-core")
"""Where `--embedded` keeps its data, below the working directory."""


@click.command()
@config_options
@click.option("--embedded", is_flag=True, help="Bring an embedded Valkey, for development.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DATA_FOLDER,
    show_default=True,
    help="The embedded Valkey's data folder.",
)
def run(
    config: Path | None,
    plugins: str | None,
    engine: str | None,
    redis_url: str | None,
    embedded: bool,
    data: Path,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C."""
    run_worker(config, plugins, engine, redis_url, embedded=embedded, data=data)


def run_worker(
    config: Path | None,
    plugins: str | None,
    engine: str | None,
    redis_url: str | None,
    *,
    embedded: bool,
    data: Path = DATA_FOLDER,
) -> None:
    """Run a worker and exit: 0 after a clean drain, 1 when it failed, 2 when it refused to start."""
    configuration = load_configuration(config, plugins, engine, redis_url)
    from worker_core._runtime.process import run_process  # noqa: PLC0415  # slow to import

    try:
        code = run_process(configuration, embedded=data.resolve() if embedded else None)
    except WorkerCoreError as error:
        refuse(error)
    sys.exit(code)

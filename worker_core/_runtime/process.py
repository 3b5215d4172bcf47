"""The worker as a process: signals, the embedded server, the exit code, and a last resort."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import attrs
import structlog
import trio

from worker_core._observe.logging import configure_logging
from worker_core._runtime.scope import RETURN_SECONDS
from worker_core._runtime.worker import Worker
from worker_core.embedded import EmbeddedValkey
from worker_core.errors import ConfigError, Fault, PluginError, RedisUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from worker_core._runtime.configuration import Configuration
    from worker_core.config import CoreSettings

__all__ = ["run_process"]

_log = structlog.get_logger("worker_core.process")

_EXIT_OK, _EXIT_FAILED, _EXIT_REFUSED, _EXIT_STUCK = 0, 1, 2, 70
_LAST_RESORT_SECONDS = 30.0
"""Beyond every bound of the stop: whoever is still in the way then does not listen."""


def run_process(configuration: Configuration, *, embedded: Path | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT and return the exit code: 0 after a clean drain.

    `embedded` is the data folder of a Valkey to start beside it.
    """
    core = configuration.core
    configure_logging(core.log, worker_id=core.worker.id)
    for notice in configuration.notices:
        _log.info("notice", text=notice)
    composition = configuration.compose()
    if not composition.job_types and not composition.services:
        hint = "no plugin provides anything to run: enable one, as in --plugins chat"
        raise ConfigError([Fault("worker.plugins", hint)])
    with ExitStack() as stack:
        if embedded is not None:
            core = _start_embedded(core, embedded, stack)
        worker = Worker(core, composition)
        try:
            trio.run(_run_until_stopped, worker, core, strict_exception_groups=True)
        except* PluginError as group:
            _log.critical("a plugin cannot be used", reason=str(_leaf(group)))
            return_code = _EXIT_REFUSED
        except* RedisUnavailable as group:
            _log.critical("Redis cannot be reached", reason=str(_leaf(group)))
            return_code = _EXIT_FAILED
        except* Exception as group:  # noqa: BLE001  # the end of the line: logged, exit code 1
            _log.critical("the worker failed", exc_info=group)
            return_code = _EXIT_FAILED
        else:
            _log.info("stopped")
            return_code = _EXIT_OK
    return return_code


def _start_embedded(core: CoreSettings, folder: Path, stack: ExitStack) -> CoreSettings:
    server = stack.enter_context(EmbeddedValkey(folder, port=core.redis.endpoint().port))
    _log.info("embedded Valkey started", url=server.url, folder=str(folder))
    # What the file says of a server elsewhere holds for that one, its certificates too.
    plain = attrs.evolve(
        core.redis, url=server.url, password=None, tls_ca=None, tls_cert=None, tls_key=None
    )
    return attrs.evolve(core, redis=plain)


async def _run_until_stopped(worker: Worker, core: CoreSettings) -> None:
    patience = core.worker.grace.total_seconds() + RETURN_SECONDS + _LAST_RESORT_SECONDS
    async with anyio.create_task_group() as tasks:
        await tasks.start(_listen, worker)
        tasks.start_soon(_end_by_force, worker, patience)
        await worker.run()
        tasks.cancel_scope.cancel()


async def _listen(
    worker: Worker, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Turn signals into the stop: the first drains, the second returns what is left."""
    heard = False
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            worker.hurry(name) if heard else worker.request_stop(name)
            heard = True


async def _end_by_force(worker: Worker, patience: float) -> None:
    """Once the stop has begun, whoever asked for it, see that the process ends."""
    await worker.stop_requested.wait()
    timer = _start_last_resort(patience)
    try:
        await anyio.sleep_forever()
    finally:
        timer.cancel()


def _start_last_resort(patience: float) -> threading.Timer:
    """End the process where a plugin blocks the event loop or shields itself for ever."""

    def give_up() -> None:
        _log.critical("the stop hangs in a plugin: ending by force", seconds=patience)
        os._exit(_EXIT_STUCK)

    timer = threading.Timer(patience, give_up)
    timer.daemon = True
    timer.start()
    return timer


def _leaf(group: BaseExceptionGroup[Exception]) -> BaseException:
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner

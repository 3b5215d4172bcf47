"""The models in memory: loading, the queue before each, keep_alive, unloading."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import anyio
import attrs

from worker_core.testing.fake_engine.demands import Refusal
from worker_core.testing.fake_engine.script import FaultMoment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker_core.engine import JSON
    from worker_core.testing.fake_engine.behaviour import Behaviour, FakeModel
    from worker_core.testing.fake_engine.log import LoggedRequest, RequestLog
    from worker_core.testing.fake_engine.script import ScriptedFault

__all__ = ["Runner", "Runners"]


@attrs.define(eq=False)
class Runner:
    """A model in memory."""

    model: FakeModel
    profile: Mapping[str, JSON]
    slots: anyio.Semaphore
    keep_alive: float
    """Seconds; `inf` for ever."""
    expires_at: float
    """On the monotonic clock; means something only while nothing uses it."""
    users: int = 0
    """Requests that run or wait for a slot."""
    retiring: bool = False
    """It will be replaced as soon as nothing uses it: new requests wait for what comes after."""
    idle: anyio.Event = attrs.field(factory=anyio.Event)

    def fits(self, profile: Mapping[str, JSON]) -> bool:
        """Tell whether a request of that profile needs no reload (an absent num_ctx fits any)."""
        if "num_ctx" in profile and profile["num_ctx"] != self.profile.get("num_ctx"):
            return False
        names = (self.profile.keys() | profile.keys()) - {"num_ctx"}
        return all(self.profile.get(name) == profile.get(name) for name in names)


class Runners:
    """Loads one model at a time, evicts when there are too many, and queues requests for each."""

    def __init__(
        self,
        behaviour: Callable[[], Behaviour],
        log: RequestLog,
        load_fault: Callable[[FaultMoment, LoggedRequest], ScriptedFault | None],
    ) -> None:
        self._behaviour = behaviour
        self._log = log
        self._load_fault = load_fault
        self._runners: dict[str, Runner] = {}
        self._load_lock = anyio.Lock()
        self._waiting = 0
        self.loading: str | None = None
        """The model whose load is under way."""
        self.reset()

    def reset(self) -> None:
        """Have in memory what the behaviour says, and nothing else."""
        self._runners.clear()
        for name in self._behaviour().loaded:
            model = self._behaviour().find(name)
            if model is not None:
                self._add(model, {})

    def listed(self) -> list[Runner]:
        """Return what `/api/ps` shows."""
        self._drop_expired()
        return list(self._runners.values())

    def find(self, model: FakeModel) -> Runner | None:
        """Return the runner that serves `model`, if it is in memory."""
        self._drop_expired()
        return self._runners.get(model.runner_key)

    async def acquire(
        self, model: FakeModel, profile: Mapping[str, JSON], entry: LoggedRequest
    ) -> Runner:
        """Return the runner of `model` with a slot of it taken, loading it first if need be.

        Raises `Refusal` when too many wait for a load, or as a scripted load fault says.
        """
        runner = self._ready(model, profile)
        if runner is not None and self._behaviour().stall_during_loads:
            async with self._load_lock:
                runner = self._ready(model, profile)
        if runner is None:
            runner = await self._loaded(model, profile, entry)
        else:
            runner.users += 1
        try:
            await runner.slots.acquire()
        except BaseException:  # a cancelled request must not count as a user for ever
            self._leave(runner)
            raise
        return runner

    def release(self, runner: Runner, keep_alive: float | None) -> None:
        """Give the slot back; an explicit keep_alive sticks."""
        runner.slots.release()
        if keep_alive is not None:
            runner.keep_alive = keep_alive
        self._leave(runner)

    def unload(self, model: FakeModel) -> None:
        """Unload as soon as nothing uses it."""
        runner = self.find(model)
        if runner is not None:
            runner.keep_alive = 0.0
            runner.expires_at = time.monotonic()
            self._drop_expired()

    async def _loaded(
        self, model: FakeModel, profile: Mapping[str, JSON], entry: LoggedRequest
    ) -> Runner:
        if self._waiting >= self._behaviour().max_queue:
            raise Refusal(503, "server busy, please try again.  maximum pending requests exceeded")
        self._waiting += 1
        began = time.monotonic()
        try:
            async with self._load_lock:
                runner = self._ready(model, profile)
                if runner is None:
                    await self._make_room(model)
                    await self._load(model, entry)
                    runner = self._add(model, profile)
                # Before the lock is let go: the next load must not evict it.
                runner.users += 1
                return runner
        finally:
            self._waiting -= 1
            entry.load_seconds = time.monotonic() - began

    async def _load(self, model: FakeModel, entry: LoggedRequest) -> None:
        default = self._behaviour().load_seconds
        self.loading = model.name
        ended = False
        self._log.changed()
        try:
            await anyio.sleep(default if model.load_seconds is None else model.load_seconds)
            ended = True
        finally:
            self.loading = None
            if not ended:
                self._log.loads_aborted += 1
        fault = self._load_fault(FaultMoment.LOAD, entry)
        if fault is not None:
            entry.fault = fault.action.value
            await anyio.sleep(fault.delay)
            raise Refusal(fault.status, fault.words)
        self._log.loads += 1
        entry.loaded = True

    async def _make_room(self, model: FakeModel) -> None:
        old = self._runners.get(model.runner_key)
        if old is not None:
            self._log.reloads += 1
            await self._retire(model.runner_key, old)
        while len(self._runners) >= self._behaviour().max_loaded:
            # Idle ones first, then the shortest keep_alive.
            key, victim = min(
                self._runners.items(), key=lambda item: (item[1].users > 0, item[1].keep_alive)
            )
            await self._retire(key, victim)

    async def _retire(self, key: str, runner: Runner) -> None:
        runner.retiring = True
        try:
            while runner.users:
                runner.idle = anyio.Event()
                await runner.idle.wait()
        finally:
            runner.retiring = False
        if self._runners.get(key) is runner:
            del self._runners[key]
            self._log.unloads += 1

    def _add(self, model: FakeModel, profile: Mapping[str, JSON]) -> Runner:
        behaviour = self._behaviour()
        # Ollama runs embedding models one request at a time, whatever was asked for.
        slots = 1 if model.can("embedding") else behaviour.parallel
        seconds = behaviour.keep_alive_seconds
        keep_alive = math.inf if seconds < 0 else seconds
        runner = Runner(
            model,
            dict(profile),
            anyio.Semaphore(slots, fast_acquire=True),
            keep_alive,
            time.monotonic() + keep_alive,
        )
        self._runners[model.runner_key] = runner
        return runner

    def _ready(self, model: FakeModel, profile: Mapping[str, JSON]) -> Runner | None:
        runner = self.find(model)
        if runner is None or runner.retiring or not runner.fits(profile):
            return None
        return runner

    def _leave(self, runner: Runner) -> None:
        runner.users -= 1
        if runner.users == 0:
            runner.expires_at = time.monotonic() + runner.keep_alive
            runner.idle.set()
            self._drop_expired()

    def _drop_expired(self) -> None:
        now = time.monotonic()
        for key, runner in list(self._runners.items()):
            if runner.users or runner.expires_at > now:
                continue
            if runner.model.name not in self._behaviour().stuck_stopping:
                del self._runners[key]
                self._log.unloads += 1

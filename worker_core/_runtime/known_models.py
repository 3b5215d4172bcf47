"""What is known of models without asking for an answer: what hosts tell, and what circuits allow."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import anyio
import attrs

from worker_core.errors import EngineError, FailureClass
from worker_core.model_name import canonical_model_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker_core.engine import Host, ModelInfo, Operation
    from worker_core.fallback import Models

__all__ = ["KnownModels"]

_ASK_SECONDS = 5.0
_FRESH_SECONDS = 300.0
"""How long what a host told counts."""
_MISSING_SECONDS = 30.0
"""How long a model that is not there counts as missing: somebody may be pulling it."""
_MOST_KEPT = 1000


@attrs.frozen
class _Told:
    info: ModelInfo | None
    missing: EngineError | None
    until: float


class KnownModels:
    """What the hosts of an engine tell of models, kept for a while."""

    def __init__(self, hosts: Sequence[Host], may_run: Callable[[str, Operation], bool]) -> None:
        self._hosts = hosts
        self._told: OrderedDict[str, _Told] = OrderedDict()
        self.may_run = may_run

    def of(self, operation: Operation) -> Models:
        """Return what is known, for calls of one operation."""
        return _ModelsFor(self, operation)

    async def describe(self, model: str) -> ModelInfo | None:
        """Return what the first host tells that has the model; raises `EngineError`."""
        name = canonical_model_name(model)
        now = anyio.current_time()
        told = self._told.get(name)
        if told is None or told.until <= now:
            told = await self._ask(model, now)
            self._told[name] = told
            self._told.move_to_end(name)
            # The names may come from jobs.
            while len(self._told) > _MOST_KEPT:
                self._told.popitem(last=False)
        if told.missing is not None:
            raise told.missing.copy()
        return told.info

    async def _ask(self, model: str, now: float) -> _Told:
        failure: EngineError | None = None
        for host in self._hosts:
            try:
                return _Told(await _describe(host, model), None, now + _FRESH_SECONDS)
            except EngineError as error:
                # That one host could not be asked says nothing: another failure goes before.
                if failure is None or failure.failure is FailureClass.MODEL_MISSING:
                    failure = error
        assert failure is not None, "an engine has hosts"
        if failure.failure is not FailureClass.MODEL_MISSING:
            raise failure
        return _Told(None, failure, now + _MISSING_SECONDS)


@attrs.frozen
class _ModelsFor:
    """What `worker_core.fallback.Models` promises."""

    _known: KnownModels
    _operation: Operation

    def may_run(self, model: str) -> bool:
        """Tell whether no circuit stands against the model."""
        return self._known.may_run(model, self._operation)

    async def describe(self, model: str) -> ModelInfo | None:
        """Return what a host tells of a model."""
        return await self._known.describe(model)


async def _describe(host: Host, model: str) -> ModelInfo | None:
    try:
        with anyio.fail_after(_ASK_SECONDS):
            return await host.describe(model)
    except TimeoutError:
        words = f"{host.name} did not tell within {_ASK_SECONDS:g} s what {model!r} can do"
        raise EngineError(FailureClass.UNREACHABLE, words) from None

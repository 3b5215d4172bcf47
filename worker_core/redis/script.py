"""Lua scripts: known by their SHA-1, so that a call carries forty bytes and not the source."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import attrs

from worker_core.redis.resp import Arg, Head

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Script", "ScriptHead"]


@attrs.frozen(kw_only=True)
class ScriptHead(Head):
    """`EVALSHA sha n keys...`, packed once; the script comes along for servers that forgot it."""

    script: Script


@attrs.frozen
class Script:
    """A Lua script; two are the same when their sources are."""

    name: str = attrs.field(eq=False)
    """For people: logs and errors."""
    source: bytes = attrs.field(repr=False)
    sha1: str = attrs.field(init=False, eq=False)

    @sha1.default
    def _digest(self) -> str:
        # The server's own name for a script, no matter of security.
        return hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def bind(self, keys: Sequence[str | bytes], *, more_keys: int = 0) -> ScriptHead:
        """Pack the constant part of a call with these keys; the arguments follow at each call.

        `more_keys` says how many further keys follow there, in front of the arguments.
        """
        head: Sequence[Arg] = ("EVALSHA", self.sha1, len(keys) + more_keys, *keys)
        packed = Head.of(*head)
        return ScriptHead(packed.count, packed.body, script=self)

"""RESP2 on the wire: calls packed to bytes, and a parser for what comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

import attrs
import hiredis

from worker_core.errors import ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Arg", "Head", "Reply", "new_parser", "pack"]

Arg: TypeAlias = str | bytes | int | float
"""What a call is made of; floats go as Python writes them, text as UTF-8."""

Reply: TypeAlias = "bytes | int | list[Reply] | ReplyError | None"
"""What a server answers; a `ReplyError` only inside a list (a call's own error is raised)."""

# hiredis's stub types the argument as a tuple of one and leaves the result open.
_pack = cast("Callable[[tuple[Arg, ...]], bytes]", hiredis.pack_command)


def pack(*args: Arg) -> bytes:
    """One call as RESP; raises `TypeError` for an argument that has no form on the wire."""
    try:
        return _pack(args)
    except TypeError:
        wrong = ", ".join(
            sorted({type(arg).__name__ for arg in args if not _has_form(arg)}),
        )
        raise TypeError(
            f"a call takes str, bytes, int and float, not {wrong}: convert it first"
        ) from None


def _has_form(arg: object) -> bool:
    # As hiredis: no bool and no other subclass of int or float, since what they mean is unclear.
    return isinstance(arg, str | bytes) or type(arg) in (int, float)


@attrs.frozen
class Head:
    """The constant first arguments of a call, packed once; `Link.run` adds the others."""

    count: int
    body: bytes = attrs.field(repr=False)

    @classmethod
    def of(cls, *args: Arg) -> Head:
        """Pack the arguments that stay the same."""
        return cls(len(args), _body(pack(*args)))

    def pack(self, args: tuple[Arg, ...]) -> bytes:
        """The whole call: this head and `args`."""
        if not args:
            return b"*%d\r\n%b" % (self.count, self.body)
        # RESP begins with the number of elements, so that alone is written anew each time.
        return b"*%d\r\n%b%b" % (self.count + len(args), self.body, _body(pack(*args)))


def _body(packed: bytes) -> bytes:
    """A packed call without its leading number of elements."""
    return packed[packed.index(b"\n") + 1 :]


def new_parser(reply_error: Callable[[str], ReplyError] = ReplyError) -> hiredis.Reader:
    """A parser of one connection's replies: errors as `ReplyError`, text as bytes, `False` for not yet."""
    factory: Callable[[str], Any] = reply_error
    return hiredis.Reader(replyError=factory, errors="replace")

"""A job's token stream as its readers see it, and how it is followed to its end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeAlias

import attrs

from worker_core._bullmq.calls import is_finished
from worker_core._bullmq.cancelling import CANCELLED
from worker_core._bullmq.replies import Final, FinalState, Refusal, read_finished
from worker_core.client.errors import NotStreamed, ResultTimeout
from worker_core.client.flows import Command, find_end
from worker_core.client.reading import NotJson, read_json
from worker_core.job import Outcome

if TYPE_CHECKING:
    from datetime import timedelta

    from worker_core._bullmq.keys import QueueKeys
    from worker_core.client.flows import Flow, Step
    from worker_core.client.view import JobRef
    from worker_core.engine import JSON

__all__ = ["Read", "TokenChunk", "TokenEnd", "TokenItem", "TokenRestart", "TokenStop", "follow"]

_BEGINNING = "0"
"""In front of every entry."""

_PAGE = 100
_FIRST_PAUSE_SECONDS = 0.05
"""Between a stream's end and asking again whether the job has ended; grows up to the poll."""


@attrs.frozen(kw_only=True)
class TokenChunk:
    """A piece of the answer; `id` is where a reader may resume."""

    id: str
    index: int
    """Counts the entries of the attempt, the one of its beginning included."""
    content: str = ""
    thinking: str = ""
    tool_calls: tuple[JSON, ...] = ()
    missing: int = 0
    """Entries that are missing before this one, lost with a connection or by the stream's bound."""


@attrs.frozen(kw_only=True)
class TokenRestart:
    """Another attempt begins, or the same one anew by a fallback: what came before does not count."""

    id: str
    attempt: int


@attrs.frozen(kw_only=True)
class TokenStop:
    """The attempt has ended without an answer, and the job will run again; a restart follows."""

    id: str
    outcome: Outcome
    reason: str | None = None


@attrs.frozen(kw_only=True)
class TokenEnd:
    """The job has ended; nothing follows."""

    id: str | None
    """`None` where the stream has no end (its worker died) and the queue told how the job ended."""
    outcome: Outcome
    reason: str | None = None
    """Why it did not complete."""


TokenItem: TypeAlias = TokenChunk | TokenRestart | TokenStop | TokenEnd


@attrs.frozen
class Read(Command):
    """A command that blocks for so long; not for a connection that is shared."""

    seconds: float


def follow(
    keys: QueueKeys,
    ref: JobRef,
    *,
    after: str | None,
    poll: float,
    timeout: timedelta | None,
    left: Callable[[], float],
) -> Generator[Step | TokenItem, object, None]:
    """Yield what a job puts out, from behind the entry `after`, and the calls that find it.

    Whoever drives it sends the replies to the calls, and hands on the rest. `left` tells how many
    seconds of the `timeout` are left. Raises `NotStreamed`, `JobGone`, `ResultTimeout`.
    """
    reading = _Reading(after)
    key = keys.tokens(ref.id)
    end: TokenEnd | None = None
    final: Final | None = None
    seconds, pause = 0.0, _FIRST_PAUSE_SECONDS
    while True:
        before = reading.position
        for item in reading.take((yield _read(key, before, seconds))):
            # An end that others follow is that of a job that was retried by hand.
            end = item if isinstance(item, TokenEnd) else None
            if isinstance(item, TokenRestart):
                final = None
            if end is None:
                yield item
        if reading.position != before:
            pause = _FIRST_PAUSE_SECONDS
        elif final is not None:
            # Asked, and looked again: nobody will write anything more.
            yield _conclude(ref, end, final, reading)
            return
        if reading.position == before or end is not None:
            final = yield from _find_end(keys, ref, end)
        if final is not None:
            seconds = 0.0
            continue
        if left() <= 0:
            assert timeout is not None
            raise ResultTimeout(ref, timeout)
        seconds = min(poll, left())
        if end is not None:
            # Written a moment before the job's own end; or by an earlier run, and another follows.
            seconds, pause = min(pause, seconds), 2 * pause


def _read(key: str, position: str, seconds: float) -> Command:
    tail = ("STREAMS", key, position)
    if not seconds:
        return Command(("XREAD", "COUNT", _PAGE, *tail))
    block_ms = max(1, round(seconds * 1000))
    return Read(("XREAD", "COUNT", _PAGE, "BLOCK", block_ms, *tail), seconds)


def _find_end(keys: QueueKeys, ref: JobRef, end: TokenEnd | None) -> Flow[Final | None]:
    """Ask how the job ended, `None` while it has not, also where its stream has an `end`.

    That one may be of an earlier job of the same id, or of a job that is tried again by hand.
    """
    if end is None:
        return (yield from find_end(keys, ref))
    found = read_finished((yield is_finished(keys, ref.id)))
    if not isinstance(found, Refusal):
        return found
    # Removed as it ended: its own word is enough.
    completed = end.outcome is Outcome.COMPLETED
    return Final(FinalState.COMPLETED if completed else FinalState.FAILED, b"")


def _conclude(ref: JobRef, end: TokenEnd | None, final: Final, reading: _Reading) -> TokenEnd:
    """Return the stream's end, where it is that of this job's last run."""
    completed = final.state is FinalState.COMPLETED
    if end is not None and (end.outcome is Outcome.COMPLETED) is completed:
        return end
    return _end_without_entry(ref, final, reading)


def _end_without_entry(ref: JobRef, final: Final, reading: _Reading) -> TokenEnd:
    """Tell how a job ended whose stream has no end."""
    match final.state:
        case FinalState.FAILED:
            reason = final.value.decode("utf-8", "replace")
            outcome = Outcome.CANCELLED if final.value == CANCELLED else Outcome.FAILED
            return TokenEnd(id=None, outcome=outcome, reason=reason)
        case FinalState.COMPLETED if reading.has_begun:
            return TokenEnd(id=None, outcome=Outcome.COMPLETED)
        case FinalState.COMPLETED:
            raise NotStreamed(ref)


class _Reading:
    """Where a reader is in a stream, and what its entries mean there."""

    def __init__(self, after: str | None) -> None:
        self.position = after or _BEGINNING
        self.has_begun = after is not None
        """Whether there has been anything."""
        self._next_index: int | None = None if after is not None else 0

    def take(self, reply: object) -> list[TokenItem]:
        """Read `XREAD`'s reply: `[[key, [[id, [name, value, ...]], ...]]]`, or nothing."""
        match reply:
            case [[_, [*entries]]]:
                return [item for entry in entries if (item := self._item(entry)) is not None]
            case _:
                return []

    def _item(self, entry: object) -> TokenItem | None:
        match entry:
            case [bytes(raw_id), [b"data", bytes(data), *_]]:
                pass
            case _:
                return None
        entry_id = self.position = raw_id.decode()
        resumed, self.has_begun = self.has_begun, True
        try:
            members = read_json(data)
        except NotJson:
            return None
        if not isinstance(members, dict):
            return None
        reason = _text(members.get("reason"))
        match members:
            case {"event": "begin", "index": int(index), "attempt": int(attempt)}:
                self._next_index = index + 1
                return TokenRestart(id=entry_id, attempt=attempt) if resumed else None
            case {"event": "chunk", "index": int(index)}:
                return self._chunk(entry_id, index, members)
            case {"event": "stop", "outcome": str(outcome)}:
                return TokenStop(id=entry_id, outcome=_outcome(outcome), reason=reason)
            case {"event": "end", "outcome": str(outcome)}:
                return TokenEnd(id=entry_id, outcome=_outcome(outcome), reason=reason)
            case _:  # a newer worker's
                return None

    def _chunk(self, entry_id: str, index: int, members: dict[str, JSON]) -> TokenChunk:
        expected = index if self._next_index is None else self._next_index
        self._next_index = index + 1
        tool_calls = members.get("tool_calls")
        return TokenChunk(
            id=entry_id,
            index=index,
            content=_text(members.get("content")) or "",
            thinking=_text(members.get("thinking")) or "",
            tool_calls=tuple(tool_calls) if isinstance(tool_calls, list) else (),
            missing=max(0, index - expected),
        )


def _text(value: JSON) -> str | None:
    return value if isinstance(value, str) else None


def _outcome(text: str) -> Outcome:
    try:
        return Outcome(text)
    except ValueError:  # a newer worker's; whatever it is, it is no answer
        return Outcome.FAILED

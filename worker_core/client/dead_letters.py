"""Dead letters as clients find them, and putting their jobs back."""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING

import attrs

from worker_core._bullmq.adding import add_stored, get_state, read_added
from worker_core._bullmq.calls import now_ms
from worker_core._bullmq.job import read_job
from worker_core._bullmq.keys import QueueKeys
from worker_core._bullmq.managing import remove, reprocess
from worker_core._bullmq.replies import JobState, read_state
from worker_core.client.flows import Command
from worker_core.client.view import JobRef
from worker_core.dead_letters import DeadLetter, read_dead_letter
from worker_core.errors import InvalidRequest
from worker_core.model_name import canonical_model_name
from worker_core.strict_json import loads

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import timedelta

    from worker_core.client.flows import Flow, Step
    from worker_core.engine import JSON

__all__ = [
    "FoundLetter",
    "LetterFilter",
    "LetterRetry",
    "find_letters",
    "read_letter",
    "remove_job",
    "retry_letter",
]

_OF_ITS_FIRST_LIFE = frozenset(
    {"delay", "parent", "fpof", "cpof", "idof", "rdof", "repeat", "prevMillis", "de"}
)
"""Options of a job that do not come back with it when it is gone from its queue: its delay is over,
its parent has been told, its scheduler goes on without it, and it is wanted even where there is
another one like it."""


@attrs.frozen(kw_only=True)
class LetterFilter:
    """Which dead letters are meant; what is not set takes all."""

    error_classes: Collection[str] = ()
    """`FailureClass` values and `OtherFailure` values."""
    model: str | None = None
    """As Ollama compares names."""
    older_than: timedelta | None = None
    """Since the job failed, by this machine's clock."""
    newer_than: timedelta | None = None

    def takes(self, letter: DeadLetter, now_ms: int) -> bool:
        """Tell whether a letter is meant."""
        if self.error_classes and letter.error.error_class not in self.error_classes:
            return False
        if self.model is not None and not _is_model(letter.model, self.model):
            return False
        age_seconds = (now_ms - letter.failed_at_ms) / 1000
        if self.older_than is not None and age_seconds < self.older_than.total_seconds():
            return False
        return self.newer_than is None or age_seconds <= self.newer_than.total_seconds()


def _is_model(name: str | None, wanted: str) -> bool:
    return name is not None and canonical_model_name(name) == canonical_model_name(wanted)


@attrs.frozen
class FoundLetter:
    """A dead letter, and the job on `<queue>-dead` that it is."""

    ref: JobRef
    letter: DeadLetter


class LetterRetry(enum.Enum):
    """What became of the wish to run the job of a dead letter again."""

    PUT_BACK = "put back"
    """It stood among the failed, and waits again with one attempt more, as after `job.retry()`."""
    ADDED = "added"
    """It was gone from its queue, and is added with all of its attempts."""
    THERE = "there"
    """It is on its queue and has not failed, or another job has its id: the letter is kept."""
    UNKNOWN = "unknown"
    """There is no such letter."""


def find_letters(
    keys: QueueKeys, where: LetterFilter | None, limit: int | None
) -> Flow[list[FoundLetter]]:
    """Return up to `limit` letters of a queue that nobody has taken yet, the newest first."""
    letters, wanted = keys.dead, where or LetterFilter()
    found: list[FoundLetter] = []
    now = now_ms()
    for waiting in (letters.wait, letters.paused):
        ids = yield Command(("LRANGE", waiting, 0, -1))
        for raw_id in ids if isinstance(ids, list) else ():
            if limit is not None and len(found) >= limit:
                return found
            ref = JobRef(raw_id.decode("utf-8", "replace"), letters.name)
            letter = yield from read_letter(letters, ref)
            if letter is not None and wanted.takes(letter, now):
                found.append(FoundLetter(ref, letter))
    return found


def read_letter(letters: QueueKeys, ref: JobRef) -> Flow[DeadLetter | None]:
    """Read one letter; `None` where there is none."""
    raw = yield Command(("HGET", letters.job(ref.id), "data"))
    return read_dead_letter(raw) if isinstance(raw, bytes) else None


def retry_letter(letters: QueueKeys, ref: JobRef) -> Flow[LetterRetry]:
    """Put the job of a letter back on its queue, and remove the letter; may be repeated."""
    letter = yield from read_letter(letters, ref)
    if letter is None:
        return LetterRetry.UNKNOWN
    outcome = yield from _put_back(QueueKeys(letters.prefix, letter.job.queue), letter)
    if outcome is not LetterRetry.THERE:
        yield from remove_job(letters, ref)
    return outcome


def remove_job(keys: QueueKeys, ref: JobRef) -> Flow[bool]:
    """Remove a job, whatever its state; `False` where a worker has it or there is none."""
    if not (yield Command(("EXISTS", keys.job(ref.id)))):
        return False
    return (yield remove(keys, ref.id)) == 1


def _put_back(keys: QueueKeys, letter: DeadLetter) -> Flow[LetterRetry]:
    job_id = letter.job.id
    fields = yield Command(("HMGET", keys.job(job_id), "timestamp", "opts"))
    match fields:
        case [bytes(created), opts]:
            pairs = [b"timestamp", created, b"opts", opts if isinstance(opts, bytes) else b""]
        case _:
            read_added((yield _add_anew(keys, letter)))
            return LetterRetry.ADDED
    stored = read_job(job_id, pairs)
    state = read_state((yield get_state(keys, job_id)))
    if state is not JobState.FAILED or stored.timestamp_ms != letter.job.created_ms:
        return LetterRetry.THERE
    # Where it does not stand there any more, somebody has just put it back: maybe we, in a call
    # whose reply was lost.
    yield reprocess(keys, job_id, lifo=stored.options.lifo)
    return LetterRetry.PUT_BACK


def _add_anew(keys: QueueKeys, letter: DeadLetter) -> Step:
    job = letter.job
    stored = {
        name: value for name, value in _options(job.opts).items() if name not in _OF_ITS_FIRST_LIFE
    }
    return add_stored(keys, job.name, _json(job.data), stored | {"jobId": job.id}, job_id=job.id)


def _options(opts: JSON) -> dict[str, JSON]:
    """Return a job's options; none where they were such as no worker could read."""
    try:
        read = loads(_json(opts))
    except InvalidRequest:
        return {}
    return read if isinstance(read, dict) else {}


def _json(value: JSON) -> bytes:
    """Write what a producer has written, odd as it may be: numbers of any size, half characters."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()

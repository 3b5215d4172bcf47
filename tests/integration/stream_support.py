"""What the tests of token streams share: a job type that puts out what it is told, and readers."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from worker_core import JobContext, JobType, QueueSpec, hookimpl
from worker_core._bullmq.keys import QueueKeys
from worker_core.client import TokenChunk, TokenEnd, TokenItem
from worker_core.testing.workers import plugin_under_test

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    import redis

    from worker_core._runtime.plugins import PluginClass

TALK = "talk"
SOON = timedelta(seconds=15)


@attrs.frozen
class TalkRequest:
    """Pieces to put out, `pause` seconds after each; then an error, where there is a `fault`."""

    pieces: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    """A piece for each UTF-16 unit: the data of a job cannot hold half a character."""
    times: int = 1
    pause: float = 0.0
    fault: str | None = None
    hang: bool = False


class TalkJobType(JobType[TalkRequest]):
    """Talks, and notes which jobs have."""

    name = TALK
    request = TalkRequest
    needs_engine = False
    queues = (QueueSpec(TALK, concurrency=64),)

    def __init__(self, silent: list[str]) -> None:
        self._silent = silent

    async def run(self, request: TalkRequest, context: JobContext) -> object:
        codes = tuple(chr(code) for code in request.codes)
        for piece in (*request.pieces, *codes) * request.times:
            context.emit(piece)
            await anyio.sleep(request.pause)
        self._silent.append(context.job.id)
        if request.hang:
            await anyio.sleep_forever()
        if request.fault is not None:
            raise RuntimeError(request.fault)
        return None


def talk(silent: list[str] | None = None) -> PluginClass:
    """A plugin with the job type that talks; `silent` gets the jobs that have talked."""
    noted = [] if silent is None else silent

    class TalkPlugin:
        @hookimpl
        def worker_core_job_types(self) -> list[JobType[Any]]:
            return [TalkJobType(noted)]

    return plugin_under_test(TALK, TalkPlugin)


def entries(client: redis.Redis, job_id: str, queue: str = TALK) -> list[tuple[int, Any]]:
    """The entries of a stream, each behind the time (ms) at which it was written."""
    found: list[tuple[Any, Any]] = client.xrange(f"bull:{queue}:{job_id}:tokens")
    return [(int(name.split(b"-")[0]), json.loads(fields[b"data"])) for name, fields in found]


def events(client: redis.Redis, job_id: str, queue: str = TALK) -> list[str]:
    """What kinds of entries there are."""
    return [entry["event"] for _, entry in entries(client, job_id, queue)]


def end_by_hand(client: redis.Redis, job_id: str, queue: str, reason: str | None = None) -> None:
    """Let a job that waits have ended, for streams that no worker wrote; with a reason, failed."""
    keys = QueueKeys("bull", queue)
    client.lrem(keys.wait, 1, job_id)
    client.zadd(keys.completed if reason is None else keys.failed, {job_id: 1})
    value = {"returnvalue": "null"} if reason is None else {"failedReason": reason}
    client.hset(keys.job(job_id), mapping={"finishedOn": "1", **value})


async def gather(tokens: AsyncIterable[TokenItem]) -> list[TokenItem]:
    """Follow a stream to its end, within a bound."""
    with anyio.fail_after(SOON.total_seconds()):
        return [item async for item in tokens]


def text_of(items: list[TokenItem]) -> str:
    """The words of all chunks."""
    return "".join(item.content for item in items if isinstance(item, TokenChunk))


def kinds_of(items: list[TokenItem]) -> list[str]:
    """The kinds of items, repetitions left out."""
    kinds: list[str] = []
    for item in items:
        kind = type(item).__name__.removeprefix("Token").lower()
        if kinds[-1:] != [kind]:
            kinds.append(kind)
    return kinds


def end_of(items: list[TokenItem]) -> TokenEnd:
    """The last item, which must be the end."""
    assert isinstance(items[-1], TokenEnd)
    return items[-1]

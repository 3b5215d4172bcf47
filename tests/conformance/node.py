"""A Node application with BullMQ beside our worker: it produces, and it observes.

One process serves many tests, for starting Node takes longer than most of them; what a test has
opened there is closed at its end.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import attrs

from tests.interop.support import HERE
from worker_core.testing.polling import eventually, eventually_async

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Events", "NodeApp"]

Line = dict[str, Any]

_ANSWER_SECONDS = 30.0


@attrs.define
class Events:
    """What a QueueEvents of Node's has heard of one queue so far, in order."""

    queue: str
    heard: list[Line] = attrs.field(factory=list)

    def of(self, event: str, job_id: str | None = None) -> list[Line]:
        """Return the events of one kind, of one job or of all."""
        return [
            line
            for line in self.heard
            if line["event"] == event and job_id in {None, line.get("jobId")}
        ]

    async def wait_for(
        self, event: str, job_id: str | None = None, *, count: int = 1, within: float = 10.0
    ) -> Line:
        """Wait until an event has come so often and return the last of them."""
        what = f"{count} x {event} of {job_id or 'any job'}"
        await eventually_async(
            lambda: len(self.of(event, job_id)) >= count, within=within, what=what
        )
        return self.of(event, job_id)[count - 1]


class NodeApp:
    """The application's process; every method but `close` is for use in a test's loop."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            ["node", "node/serve.mjs"],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "REDIS_URL": url},
        )
        self._numbers = itertools.count(1)
        self._answers: dict[int, Line] = {}
        self._listening: dict[str, Events] = {}
        self.ran: list[str] = []
        """The jobs that Node's own workers have begun, in order."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            line: Line = json.loads(text)
            if "id" in line:
                self._answers[line["id"]] = line
            elif "ran" in line:
                self.ran.append(line["ran"])
            elif line["queue"] in self._listening:
                self._listening[line["queue"]].heard.append(line)

    async def call(
        self, queue: str, method: str, *args: object, options: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a method of Node's Queue; `options` are the Queue's where it is the first call."""
        return await self._ask("call", queue=queue, method=method, args=args, options=options)

    async def add(
        self, queue: str, *jobs: Line, options: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Add jobs (`{data, opts?, name?}`) in one go and return their ids."""
        ids: list[str] = await self._ask("add", queue=queue, jobs=jobs, options=options)
        return ids

    async def add_one(self, queue: str, data: object = None, **opts: Any) -> str:
        """Add one job with these of BullMQ's options."""
        [job_id] = await self.add(queue, {"data": data or {}, "opts": opts})
        return job_id

    async def job(self, queue: str, job_id: str) -> Line | None:
        """Return a job as Node reads it."""
        job: Line | None = await self._ask("job", queue=queue, job=job_id)
        return job

    async def flow(self, tree: Line) -> Line:
        """Add a flow and return the tree of its ids: `{id, children}`."""
        ids: Line = await self._ask("flow", tree=tree)
        return ids

    async def listen(self, queue: str, *, options: Mapping[str, Any] | None = None) -> Events:
        """Open a QueueEvents and return what it hears."""
        events = self._listening[queue] = Events(queue)
        await self._ask("listen", queue=queue, options=options)
        return events

    async def work(self, queue: str, *, milliseconds: int = 0, **options: Any) -> None:
        """Start a Node worker whose jobs take so long; `options` are BullMQ's."""
        await self._ask("work", queue=queue, milliseconds=milliseconds, options=options)

    async def close_worker(self, queue: str) -> None:
        """Close a Node worker."""
        await self._ask("closeOne", kind="worker", queue=queue)

    async def _ask(self, what: str, **given: Any) -> Any:
        answered = self._send(what, given)
        return _value(await eventually_async(answered, within=_ANSWER_SECONDS, what=what))

    def _send(self, what: str, given: Mapping[str, Any]) -> Callable[[], Line | None]:
        number = next(self._numbers)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": what, **given}) + "\n")
        self._process.stdin.flush()
        return lambda: self._answers.pop(number, None)

    def reset(self) -> None:
        """Close everything that a test has opened, and forget what was heard."""
        answered = self._send("close", {})
        eventually(answered, within=_ANSWER_SECONDS, what="Node closes what it has opened")
        self._listening.clear()
        self.ran.clear()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()


def _value(answer: Line | None) -> Any:
    assert answer is not None
    assert "error" not in answer, answer["error"]
    return answer["value"]

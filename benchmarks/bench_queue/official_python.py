"""The official Python worker with its defaults and the same no-op: `... QUEUE CONCURRENCY`."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from bullmq import Job, Worker  # type: ignore[import-untyped]  # no types shipped


async def process(job: Job, _token: str) -> int | None:
    """Wait if told to, and tell when the job began if asked."""
    began = time.monotonic_ns() if job.data.get("tell_begin") else None
    if wait_ms := job.data.get("wait_ms"):
        await asyncio.sleep(wait_ms / 1000)
    return began


async def main() -> None:
    """Work until killed."""
    queue, concurrency = sys.argv[1], int(sys.argv[2])
    Worker(queue, process, {"connection": os.environ["REDIS_URL"], "concurrency": concurrency})
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

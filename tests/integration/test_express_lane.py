"""An express lane: a queue of its own, with slots of its own, and first at admission."""

from __future__ import annotations

import time
from datetime import timedelta

import anyio

from tests.integration.support import CHAT, chat, put, state_of
from worker_core.client import JobRef, SyncClient

EXPRESS = "llm-chat-express"
CONFIG = """\
[plugins.chat]
queues = [
  { name = "llm-chat", concurrency = 20 },
  { name = "llm-chat-express", concurrency = 2, express = true },
]

[plugins.ollama]
max_concurrent_requests = 4
"""
ANSWER_SECONDS = 0.5


async def test_long_jobs_never_hold_up_the_express_lane(
    valkey, fake_engine, start_process, tmp_path
):
    """Long jobs fill every slot and every place on the host, and more of them wait for either. An
    express job is claimed by a slot that they cannot have, and gets the next place that is free."""
    fake_engine.behaviour = type(fake_engine.behaviour)(
        loaded=("llama3",), parallel=4, tokens=10, token_seconds=ANSWER_SECONDS / 10
    )
    config = tmp_path / "lanes.toml"
    config.write_text(CONFIG)
    worker = start_process(
        *("--plugins", "chat", "--engine", "ollama", "--config", str(config)),
        environment={"OLLAMA_BASE_URL": fake_engine.url},
    )
    await anyio.to_thread.run_sync(worker.wait_ready)
    long = [put(valkey.client, CHAT, chat(f"long {number}")) for number in range(60)]
    await fake_engine.log.wait_until(lambda log: log.in_flight == 4, within=20)
    with SyncClient(valkey.url) as client:
        for _ in range(3):
            began = time.monotonic()
            job_id = put(valkey.client, EXPRESS, chat("quick"))
            await anyio.to_thread.run_sync(
                lambda job_id=job_id: client.result(
                    JobRef(job_id, EXPRESS), timeout=timedelta(seconds=20)
                )
            )
            # One answer that is under way, its own, and what a busy machine adds.
            assert time.monotonic() - began < 3 * ANSWER_SECONDS
    ended = [state_of(valkey.client, job_id, CHAT) for job_id in long].count("completed")
    assert 1 <= ended < len(long)

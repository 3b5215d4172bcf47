"""The third-party example runs inside a worker."""

from __future__ import annotations

import json
import signal

from worker_core._bullmq.adding import AddOptions, add
from worker_core._bullmq.keys import QueueKeys
from worker_core.testing.polling import eventually, eventually_async


def put(valkey, queue, data, **options):
    call = add(QueueKeys("bull", queue), "job", json.dumps(data).encode(), AddOptions(**options))
    return valkey.client.eval(call.script.source, len(call.keys), *call.keys, *call.args).decode()


async def test_an_echo_job_completes(valkey, start_worker):
    await start_worker({"worker": {"plugins": ["echo"], "engine": "none"}})
    job_id = put(valkey, "echo", {"text": "hi", "times": 2})
    await eventually_async(lambda: valkey.client.zscore("bull:echo:completed", job_id))
    envelope = json.loads(valkey.client.hget(f"bull:echo:{job_id}", "returnvalue"))
    assert envelope["answer"] == "hi hi"


def test_a_worker_process_runs_a_job_and_drains(valkey, start_process):
    worker = start_process("--plugins", "echo", "--engine", "none")
    worker.wait_ready()
    job_id = put(valkey, "echo", {"text": "hi"})
    eventually(lambda: valkey.client.zscore("bull:echo:completed", job_id))
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0, worker.log

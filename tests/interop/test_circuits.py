"""A job that our worker has put back before an open circuit is a delayed job like any other to Node."""

from __future__ import annotations

from tests.interop.support import CHAT, chat
from worker_core.testing.polling import eventually


def test_node_runs_what_we_have_put_back(node, start_process, valkey, free_tcp_port):
    ours = start_process(
        *("--plugins", "chat"), environment={"OLLAMA_BASE_URL": f"http://127.0.0.1:{free_tcp_port}"}
    )
    [job_id] = node.add(CHAT, {"data": chat("hi"), "opts": {"attempts": 2}})
    key = f"bull:{CHAT}:{job_id}"
    eventually(lambda: valkey.client.hexists(key, "wc:put-off"), within=30)
    ours.kill()
    theirs = node.start("work", queue=CHAT)
    theirs.wait_for(lambda line: line.get("ran"), within=40)
    eventually(lambda: valkey.client.zscore(f"bull:{CHAT}:completed", job_id) is not None)
    theirs.finish()
    # Started by each of us, and the attempt is Node's.
    assert valkey.client.hmget(key, "ats", "atm") == [b"2", b"1"]

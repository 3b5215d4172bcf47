"""`worker-core demo`, as a process."""

from __future__ import annotations

import os
import re
import sys

import anyio
import pytest


async def demo(*arguments, **environment):
    """Run it; returns its exit code, what it printed, and the state that it shows of each job."""
    ran = await anyio.run_process(
        [sys.executable, "-m", "worker_core", "demo", *arguments],
        env={**os.environ, **environment},
        check=False,
    )
    printed = ran.stdout.decode()
    rows = re.findall(r"^ (\w+) .*?  (right|wrong) ", printed, re.MULTILINE)
    return ran.returncode, printed, rows


async def test_wrong_answers_fail_it_and_show_the_workers_log(fake_engine):
    """An engine that knows nothing can still stream, and be told to stop."""
    fake_engine.behaviour = type(fake_engine.behaviour)(tokens=60, token_seconds=0.02)
    code, printed, rows = await demo(
        *("--engine", "ollama", "--model", "llama3", "--timeout", "20"),
        OLLAMA_BASE_URL=fake_engine.url,
    )
    assert code == 1
    assert [state for kind, state in rows if kind == "chat"] == ["wrong"] * 4
    assert ("streamed", "right") in rows
    assert ("cancelled", "right") in rows
    assert "the demo failed; the worker's log:" in printed
    assert '"event": "ready"' in printed


async def test_what_does_not_come_in_time_is_said(fake_engine, tmp_path):
    config = tmp_path / "demo.toml"
    config.write_text("[worker]\nplugins = ['chat', 'embeddings', 'batch']\ngrace = '100ms'\n")
    fake_engine.behaviour = type(fake_engine.behaviour)(tokens=400, token_seconds=1)
    code, printed, rows = await demo(
        *("--engine", "ollama", "--model", "llama3", "--timeout", "2", "--config", str(config)),
        OLLAMA_BASE_URL=fake_engine.url,
    )
    assert code == 1
    assert ("chat", "wrong") in rows
    assert "not answered in time" in printed


@pytest.mark.embedded_engine
async def test_the_real_model_answers_right():
    code, printed, rows = await demo()
    assert code == 0, printed
    assert {state for _, state in rows} == {"right"}
    assert {kind for kind, _ in rows} >= {"chat", "streamed", "cancelled", "embeddings", "batch"}

"""What it ran on: the machine and the versions, never its name."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import redis

from benchmarks.bench_queue.peers import NODE_FOLDER, Peer
from worker_core.embedded import EmbeddedValkey

__all__ = ["describe"]


def describe(peers: list[Peer]) -> dict[str, str]:
    """Return what a reader must know to compare, by what it is."""
    with EmbeddedValkey() as server, redis.Redis.from_url(server.url) as client:
        valkey = client.info("server")["valkey_version"]
    known = {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "Valkey": valkey,
        "Python": platform.python_version(),
        "worker-core": f"{version('worker-core')}, trio {version('trio')}, hiredis {version('hiredis')}",
    }
    if Peer.NODE in peers:
        known["Node"] = _output("node", "--version").removeprefix("v")
        known["BullMQ for Node"] = _node_version("bullmq")
        known["ioredis"] = _node_version("ioredis")
    if Peer.PYTHON in peers:
        known["BullMQ for Python"] = f"{version('bullmq')}, redis-py {version('redis')}"
    return known


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def _node_version(package: str) -> str:
    manifest = NODE_FOLDER / "node_modules" / package / "package.json"
    return str(json.loads(manifest.read_text())["version"])


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

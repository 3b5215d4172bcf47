"""Node's side of the tests: scripts run as processes, and what they printed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from worker_core.testing.polling import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE = Path(__file__).parent
SCRIPT_SECONDS = 60.0
CHAT = "llm-chat"
MODEL = "llama3"

Line = dict[str, Any]


def chat(text: str, **members: object) -> Line:
    """The data of a chat job."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **members}


def install() -> None:
    """Install what package-lock.json pins, unless it is there already."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise RuntimeError("the interop tests need node (20 or newer) and npm on the PATH")
    installed = HERE / "node_modules" / ".package-lock.json"
    lock = HERE / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    # The install scripts only build a faster msgpack; the plain one does.
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"npm ci failed:\n{done.stdout}{done.stderr}")
    installed.touch()


class Script:
    """One script in `node/` as a process; what it prints is read from a file as it comes."""

    def __init__(self, name: str, given: Mapping[str, Any], url: str, folder: Path) -> None:
        self._name = name
        self._output = folder / f"{name}-{len(list(folder.iterdir()))}.jsonl"
        self._errors = self._output.with_suffix(".err")
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                ["node", f"node/{name}.mjs", json.dumps(given)],
                cwd=HERE,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                env={**os.environ, "REDIS_URL": url},
            )

    @property
    def lines(self) -> list[Line]:
        """The whole lines so far."""
        text = self._output.read_text("utf-8")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, found: Callable[[Line], Any], *, within: float = 20.0) -> Line:
        """Wait for the first line that `found` holds for."""

        def look() -> Line | None:
            if self._process.poll():
                raise AssertionError(f"{self._name} failed:\n{self._errors.read_text()}")
            return next((line for line in self.lines if found(line)), None)

        line = eventually(look, within=within, what=f"{self._name} printed it, among {self.lines}")
        assert line is not None
        return line

    def finish(self) -> list[Line]:
        """Close its standard input, wait for its end and return all lines."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(SCRIPT_SECONDS)
        assert code == 0, f"{self._name}: {self._errors.read_text()}\n{self.lines}"
        return self.lines

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


class Node:
    """Runs scripts against one server."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._started: list[Script] = []

    def start(self, script: str, **given: Any) -> Script:
        """Start a script that goes on until `finish`."""
        started = Script(script, given, self._url, self._folder)
        self._started.append(started)
        return started

    def run(self, script: str, **given: Any) -> list[Line]:
        """Run a script to its end and return the lines that it printed."""
        return self.start(script, **given).finish()

    def add(self, queue: str, *jobs: Line) -> list[str]:
        """Add jobs (`{data, opts?, name?}`) and return their ids."""
        return [line["added"] for line in self.run("produce", queue=queue, jobs=jobs)]

    def ask(self, queue: str, *jobs: Line, within: float = 30.0, hold: bool = False) -> list[Line]:
        """Add jobs and await each; the lines by which the awaiting ended, in the jobs' order.

        With `hold` none begins before all are awaited.
        """
        wait_ms = int(within * 1000)
        lines = self.run("produce", queue=queue, jobs=jobs, waitMs=wait_ms, hold=hold)
        ended = {line["finished"]: line for line in lines if "finished" in line}
        return [ended[line["added"]] for line in lines if "added" in line]

    def jobs(self, queue: str, *ids: str) -> list[Line]:
        """Return the jobs as Node reads them."""
        return [line["job"] for line in self.run("inspect", queue=queue, ids=ids) if "job" in line]

    def close(self) -> None:
        """End what still runs."""
        for script in self._started:
            script.kill()


class EngineProcess:
    """The fake engine in a process of its own, scripted over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, trust_env=False)

    def script(self, **fault: Any) -> None:
        """Add a scripted fault."""
        self._post("script", fault)

    def behave(self, **changes: Any) -> None:
        """Change how it behaves."""
        self._post("behaviour", changes)

    def reset(self) -> None:
        """Begin anew."""
        self._post("reset", {})

    def _post(self, what: str, body: object) -> None:
        response = self._http.post(f"/_fake/{what}", json=body)
        assert response.status_code == 200, response.text

    def close(self) -> None:
        """Close the control connection."""
        self._http.close()

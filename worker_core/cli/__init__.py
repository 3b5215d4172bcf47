"""The command line: one module per command or group, imported when it is called."""

from worker_core.cli.root import main

__all__ = ["main"]

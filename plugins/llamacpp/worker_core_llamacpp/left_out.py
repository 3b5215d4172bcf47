"""What a call may ask for and a job cannot have: the model is loaded once, for everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker_core.engine import ChatCall, EmbedCall

__all__ = ["left_out"]

_RUNNER = ("num_ctx", "num_gpu", "num_batch", "num_thread", "main_gpu", "use_mmap")


def left_out(call: ChatCall | EmbedCall) -> tuple[str, ...]:
    """Return a warning for each wish about how the model is loaded, and for how long."""
    warnings = []
    if runner := [name for name in call.options if name in _RUNNER]:
        warnings.append(
            f"left out {', '.join(runner)}: how the model is loaded is set in [plugins.llamacpp]"
        )
    if call.keep_alive is not None:
        warnings.append("left out keep_alive: the model stays loaded as long as the worker runs")
    return tuple(warnings)

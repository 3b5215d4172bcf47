"""What llama.cpp does wrong, as the engine's errors."""

from __future__ import annotations

from worker_core.errors import EngineError, FailureClass

__all__ = ["failure_of", "incomplete", "too_long"]


def failure_of(status: int, body: bytes, model: str) -> EngineError:
    """Return the error for an answer whose status is not 200."""
    match status:
        case 400 if b"exceed_context_size" in body:
            return too_long(model, status=status)
        case 400:
            failure, why = FailureClass.BAD_INPUT, "the request is refused: an option is wrong"
        case 501:
            failure, why = FailureClass.UNSUPPORTED, f"{model!r} cannot do what is asked of it"
        case 503:
            failure, why = FailureClass.BUSY, f"{model!r} is being loaded"
        case _:
            failure, why = FailureClass.CRASHED, f"llama.cpp failed with status {status}"
    return EngineError(failure, f"embedded: {why}", status=status)


def too_long(model: str, *, status: int | None = None) -> EngineError:
    """Return the error for an input that does not fit into the context."""
    return EngineError(
        FailureClass.BAD_INPUT,
        f"embedded: the input is longer than the context of {model!r}: shorten it or raise context",
        status=status,
    )


def incomplete(model: str, why: str) -> EngineError:
    """Return the error for an answer that is none."""
    return EngineError(FailureClass.INCOMPLETE, f"embedded: {model!r}: {why}")

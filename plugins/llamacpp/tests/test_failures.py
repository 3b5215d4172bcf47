"""Statuses and wishes, without a process."""

from __future__ import annotations

import pytest
from worker_core_llamacpp.failures import failure_of
from worker_core_llamacpp.left_out import left_out

from worker_core.engine import ChatCall, EmbedCall
from worker_core.errors import FailureClass


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (400, b'{"error":{"type":"exceed_context_size_error"}}', FailureClass.BAD_INPUT),
        (400, b"", FailureClass.BAD_INPUT),
        (501, b"", FailureClass.UNSUPPORTED),
        (503, b"", FailureClass.BUSY),
        (500, b"", FailureClass.CRASHED),
    ],
)
def test_statuses_have_their_class(status: int, body: bytes, failure: FailureClass) -> None:
    assert failure_of(status, body, "m").failure is failure


def test_wishes_about_loading_become_warnings() -> None:
    assert left_out(EmbedCall(model="m", input=(), options={"temperature": 1, "seed": 1})) == ()
    call = ChatCall(model="m", messages=(), options={"num_gpu": 1, "num_ctx": 9}, keep_alive=0)
    runner, keep_alive = left_out(call)
    assert "num_gpu, num_ctx" in runner
    assert "keep_alive" in keep_alive

"""The keys of a queue, and what is derived from them."""

from __future__ import annotations

import base64

import pytest

from worker_core._bullmq.keys import QueueKeys


def test_keys_are_made_of_prefix_name_and_part() -> None:
    keys = QueueKeys("{bull}", "llm-chat")
    assert keys.base == "{bull}:llm-chat:"
    assert keys.waiting_children == "{bull}:llm-chat:waiting-children"
    assert keys.job("5") == "{bull}:llm-chat:5"
    assert keys.lock("5") == "{bull}:llm-chat:5:lock"
    assert keys.logs("5") == "{bull}:llm-chat:5:logs"
    assert keys.result("5") == "{bull}:llm-chat:5:result"
    assert keys.metrics("failed") == "{bull}:llm-chat:metrics:failed"


@pytest.mark.parametrize("queue", ["llm-chat", "émile 😀", "a/b+c"])
def test_the_client_name_is_base64_as_bullmq_writes_it(queue: str) -> None:
    prefix, encoded, mark, worker = QueueKeys("bull", queue).client_name("host-1").split(":")
    assert (prefix, mark, worker) == ("bull", "w", "host-1")
    assert base64.b64decode(encoded, validate=True).decode() == queue


@pytest.mark.parametrize("name", ["", "a:b", ":"])
def test_a_name_that_bullmq_refuses_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must not be empty or hold a colon"):
        QueueKeys("bull", name)

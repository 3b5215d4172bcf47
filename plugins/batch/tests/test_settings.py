"""The settings, and the data of a batch job."""

from __future__ import annotations

from datetime import timedelta

import pytest
from worker_core_batch import BatchJobType, BatchSettings
from worker_core_batch.request import BatchRequest

from worker_core import QueueSpec
from worker_core.client import DEFAULT_QUEUES
from worker_core.structure import structure


def test_the_defaults_are_those_that_are_documented() -> None:
    settings = BatchSettings()
    assert settings.queues == (QueueSpec("llm-batch", 4),)
    assert DEFAULT_QUEUES["batch"] == "llm-batch"
    assert BatchJobType(settings).queues == settings.queues
    assert (settings.retry_delay, settings.patience) == (timedelta(seconds=30), timedelta(hours=1))


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_a_share_is_a_part(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        BatchSettings(share=share)


@pytest.mark.parametrize(
    ("timeout", "limit"),
    [(None, None), (1500, timedelta(seconds=1.5)), ("24h", timedelta(hours=24))],
)
def test_a_timeout_is_milliseconds_or_a_duration(
    timeout: float | str | None, limit: timedelta | None
) -> None:
    assert structure({"requests": [], "timeout": timeout}, BatchRequest).time_limit == limit

"""Listing jobs with the async client; `tests/cli` has the order and the states."""

from __future__ import annotations

import pytest

from worker_core.client import JobState, open_client


async def test_jobs_of_a_state_are_listed_as_views(valkey):
    async with open_client(valkey.url) as client:
        refs = [await client.submit("echo", {"n": n}, queue="echo") for n in range(3)]
        views = await client.list_jobs("echo", state=JobState.WAITING, limit=2)
        assert [view.ref for view in views] == refs[:2]
        assert [view.data for view in views] == [{"n": 0}, {"n": 1}]
        assert views[0].state is JobState.WAITING
        assert await client.list_jobs("echo", state=JobState.FAILED) == []


async def test_what_was_removed_meanwhile_is_left_out(valkey):
    async with open_client(valkey.url) as client:
        refs = [await client.submit("echo", None, queue="echo") for _ in range(2)]
        valkey.client.delete("bull:echo:1")
        [view] = await client.list_jobs("echo", state=JobState.WAITING)
        assert view.ref == refs[1]
        with pytest.raises(ValueError, match="cannot be listed"):
            await client.list_jobs("echo", state=JobState.UNKNOWN)

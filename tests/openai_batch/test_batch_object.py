"""The batch object: OpenAI's members, all of them, made of what a client sees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from worker_core.client import BatchStatus, BatchView, JobRef, JobState, JobView, Usage
from worker_core.openai_batch import (
    ENDED,
    FaultCode,
    LineFault,
    Submitted,
    batch_object,
    refused_object,
    submitted_of,
)

MEMBERS = {
    *("id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window"),
    *("status", "output_file_id", "error_file_id", "created_at", "in_progress_at", "expires_at"),
    *("finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"),
    *("request_counts", "usage", "metadata"),
}
CREATED = datetime(2026, 1, 2, 3, 4, 5, 600_000, UTC)
SUBMITTED = Submitted(
    endpoint="/v1/chat/completions",
    input_file="in.jsonl",
    completion_window="24h",
    model="llama3",
    metadata={"of": "nightly"},
)
REF = JobRef("batch_ab", "llm-batch")
JOB = JobView(
    ref=REF,
    name="batch",
    state=JobState.ACTIVE,
    data={},
    options={},
    progress=None,
    attempts_made=0,
    max_attempts=1,
    failed_reason=None,
    stacktrace=(),
    worker=None,
    created_at=CREATED,
    processed_at=None,
    finished_at=None,
)
RUNNING = BatchView(
    ref=REF,
    status=BatchStatus.IN_PROGRESS,
    total=10,
    completed=3,
    failed=1,
    usage=Usage(prompt_tokens=5, completion_tokens=6, total_tokens=11),
    created_at=CREATED,
    started_at=CREATED + timedelta(seconds=1),
    ended_at=None,
    expires_at=CREATED + timedelta(days=1),
    error=None,
    meta=SUBMITTED.meta(),
    job=JOB,
)


def ended(status, **changes):
    ended_at = CREATED + timedelta(seconds=9)
    return attrs.evolve(RUNNING, status=status, ended_at=ended_at, **changes)


def test_one_that_runs():
    whole = batch_object(RUNNING)
    assert set(whole) == MEMBERS
    assert {name: value for name, value in whole.items() if value is not None} == {
        "id": "batch_ab",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": "llama3",
        "input_file_id": "in.jsonl",
        "completion_window": "24h",
        "status": "in_progress",
        "created_at": 1767323045,
        "in_progress_at": 1767323046,
        "expires_at": 1767323045 + 86_400,
        "request_counts": {"total": 10, "completed": 3, "failed": 1},
        "usage": {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11},
        "metadata": {"of": "nightly"},
    }


@pytest.mark.parametrize("status", sorted(ENDED, key=lambda status: status.value))
def test_when_it_ended_stands_under_how_it_ended(status):
    whole = batch_object(ended(status))
    named = {name for name in MEMBERS if name.endswith("_at") and whole[name] == 1767323054}
    assert named == {f"{status.value}_at"}


def test_the_files_are_named_where_there_is_something_to_fetch():
    whole = batch_object(ended(BatchStatus.COMPLETED, completed=9))
    assert (whole["output_file_id"], whole["error_file_id"]) == (
        "batch_ab_output.jsonl",
        "batch_ab_error.jsonl",
    )
    assert batch_object(ended(BatchStatus.COMPLETED, completed=10))["error_file_id"] is None
    assert batch_object(ended(BatchStatus.FAILED, completed=0))["output_file_id"] is None
    assert batch_object(RUNNING)["output_file_id"] is None


def test_why_it_failed():
    errors = batch_object(ended(BatchStatus.FAILED, error="no such type"))["errors"]
    assert errors["object"] == "list"
    assert [entry["message"] for entry in errors["data"]] == ["no such type"]
    assert batch_object(ended(BatchStatus.CANCELLED, error="cancelled"))["errors"] is None


def test_a_refused_file():
    fault = LineFault(3, FaultCode.INVALID_JSON, "not JSON")
    whole = refused_object(SUBMITTED, [fault])
    assert set(whole) == MEMBERS
    assert (whole["id"], whole["status"]) == (None, "failed")
    assert whole["errors"]["data"] == [fault.data()]


@pytest.mark.parametrize("meta", [None, [], {"mine": 1}, {"openai": 3}, {"openai": {"model": 3}}])
def test_one_that_was_submitted_otherwise(meta):
    view = attrs.evolve(RUNNING, meta=meta)
    assert submitted_of(view) == Submitted()
    assert set(batch_object(view)) == MEMBERS


def test_how_it_was_submitted_is_read_back():
    assert submitted_of(RUNNING) == SUBMITTED

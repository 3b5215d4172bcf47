"""What may be submitted, and where to."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from worker_core_chat import ChatSettings
from worker_core_embeddings import EmbeddingsSettings

from worker_core.client import DEFAULT_QUEUES, AddOptions, InvalidJob
from worker_core.client.submission import prepare


def data_of(data):
    return json.loads(prepare("bull", "x", data, "q", None).call.args[1])


@pytest.mark.parametrize(
    ("job_type", "settings", "queue"),
    [
        ("chat", ChatSettings(), "llm-chat"),
        ("embeddings", EmbeddingsSettings(), "llm-embeddings"),
    ],
)
def test_a_first_party_type_goes_where_its_plugin_looks(job_type, settings, queue):
    assert [spec.name for spec in settings.queues] == [queue]
    assert prepare("bull", job_type, {}, None, None).queue == DEFAULT_QUEUES[job_type] == queue


def test_another_type_needs_a_queue():
    with pytest.raises(InvalidJob, match="queue: job type 'x' has no default queue"):
        prepare("bull", "x", {}, None, None)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"a": [float("nan")]}, r"data: a\[0\]: not a finite number"),
        ({"a": float("inf")}, "data: a: not a finite number"),
        ({"a": 2**64}, "data: a: an integer beyond 64 bits"),
        (
            {"messages": [{"content": "half \ud83d"}]},
            r"data\.messages\[0\]\.content: text with half a character",
        ),
        ({"\ud83d": 1}, "half a character"),
        ({"a": object()}, "data: not JSON"),
        ({1: "a"}, "data: not JSON"),
    ],
)
def test_data_that_is_not_strict_json_is_refused(data, fault):
    with pytest.raises(InvalidJob, match=fault):
        prepare("bull", "x", data, "q", None)


def test_data_that_is_strict_json_passes():
    data = {"a": [None, True, 1.5, -1, "\N{REPLACEMENT CHARACTER} \N{GRINNING FACE}"], "b": {}}
    assert data_of(data) == data


@pytest.mark.parametrize(("job_type", "queue"), [("", "q"), ("x", "a:b"), ("\ud83d", "q")])
def test_names_that_cannot_be_keys_are_refused(job_type, queue):
    with pytest.raises(InvalidJob):
        prepare("bull", job_type, {}, queue, None)


@pytest.mark.parametrize(
    "options",
    [
        {"job_id": "12"},
        {"job_id": ""},
        {"job_id": "a:b"},
        {"delay": timedelta(seconds=-1)},
        {"delay": timedelta(days=36500)},
        {"attempts": 0},
        {"priority": 2**21},
    ],
)
def test_options_that_bullmq_refuses_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        AddOptions(**options)


def test_only_an_id_of_ones_own_makes_a_job_repeatable():
    assert not prepare("bull", "x", {}, "q", None).repeatable
    assert prepare("bull", "x", {}, "q", AddOptions(job_id="mine")).repeatable

"""docs/batches.md is true: its file can be submitted, its tables are those of the code."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import attrs
from worker_core_batch.request import BatchRequest

from worker_core.client import BatchStatus
from worker_core.openai_batch import inspect
from worker_core.openai_batch.chat_request import _ChatBody
from worker_core.openai_batch.output_lines import _REFUSALS
from worker_core.structure import structure, unknown_members

PAGE = (Path(__file__).parents[2] / "docs" / "batches.md").read_text()


def block(word):
    [text] = re.findall(rf"^```{word}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return text


def rows(heading):
    """Return the names in the first cells of the table below a heading, and the other cells."""
    section = PAGE.partition(heading)[2].partition("\n#")[0]
    cells = re.findall(r"^\| (`.*?) \| (.*) \|$", section, re.MULTILINE)
    return {name: other for first, other in cells for name in re.findall(r"`(\w+)`", first)}


def test_the_files_example_can_be_submitted():
    assert inspect(io.BytesIO(block("jsonl").encode())).requests == 2


def test_the_jobs_example_is_one():
    data = json.loads(block("json"))
    assert structure(data, BatchRequest).total == 2
    assert unknown_members(data, BatchRequest) == []


def test_every_member_of_a_chat_is_on_the_page_and_no_other():
    assert set(rows("### Chat completions")) == {field.name for field in attrs.fields(_ChatBody)}


def test_the_statuses_of_failures_are_those_of_the_code():
    written = {name: int(status) for name, status in rows("### Output and error lines").items()}
    assert written == {name: refusal.status for name, refusal in _REFUSALS.items()}


def test_every_state_is_on_the_page():
    section = PAGE.partition("### The batch object")[2]
    for status in BatchStatus:
        assert f"`{status.value}`" in section

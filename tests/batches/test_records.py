"""What stands in Redis of a batch: written, read back, and read where it is odd. Pure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_core.batches import (
    BatchItem,
    BatchKeys,
    BatchPhase,
    BatchState,
    CompletedItem,
    FailedItem,
    PageSize,
    completed_outcome,
    failed_outcome,
    read_item,
    read_outcome,
    read_state,
    write_item,
)
from worker_core.errors import InvalidRequest
from worker_core.strict_json import loads

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
items = st.builds(BatchItem, st.text(), st.text(), values)


@given(items)
def test_an_item_comes_back_as_it_was(item):
    assert read_item(write_item(item)) == item
    assert read_item(loads(write_item(item))) == item


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"custom_id":1,"type":"a","body":1}'])
def test_what_is_no_item_is_refused(raw):
    with pytest.raises(InvalidRequest):
        read_item(raw)


@given(items, values)
def test_a_completed_outcome_comes_back(item, envelope):
    written = completed_outcome(item, json.dumps(envelope).encode())
    assert read_outcome(loads(written)) == CompletedItem(item.custom_id, item.type, envelope)


@given(items, st.text(), st.text())
def test_a_failed_outcome_comes_back(item, failure, message):
    written = failed_outcome(item, failure, message)
    assert read_outcome(loads(written)) == FailedItem(item.custom_id, item.type, failure, message)


@given(values)
def test_what_is_no_outcome_is_none(value):
    assert read_outcome(value) is None


@given(st.dictionaries(st.binary(), st.binary()))
def test_no_state_is_so_odd_that_it_cannot_be_read(fields):
    reply = [part for pair in fields.items() for part in pair]
    assert (read_state(reply) is None) == (not fields)


def test_a_state_is_read():
    fields = {"status": "in_progress", "total": "9", "completed": "3", "failed": "1"}
    fields |= {"prompt_tokens": "5", "timeout_ms": "", "born": "7", "meta": '{"a":1}'}
    reply = [part.encode() for pair in fields.items() for part in pair]
    state = read_state(reply)
    assert state == BatchState(
        phase=BatchPhase.IN_PROGRESS,
        total=9,
        completed=3,
        failed=1,
        prompt_tokens=5,
        meta={"a": 1},
    )
    assert state.ended == 4


def test_all_keys_are_made_from_the_jobs_own():
    keys = BatchKeys("{bull}", "q", "id")
    assert keys.job == "{bull}:q:id"
    assert {keys.requests, keys.items, keys.state} == {
        *("{bull}:q:id:requests", "{bull}:q:id:items", "{bull}:q:id:batch")
    }


def test_pages_of_small_items_grow_and_those_of_large_ones_shrink():
    size = PageSize()
    counts = []
    for _ in range(4):
        counts.append(size.count)
        size.learn([b"small"] * size.count)
    assert counts == [16, 64, 100, 100]
    size.learn([b"small", None, b"x" * 1024 * 1024])
    assert size.count == 4
    size.learn([b"x" * 10 * 1024 * 1024])
    assert size.count == 1

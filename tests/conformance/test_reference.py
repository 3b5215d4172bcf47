"""The suite is whole: every name of the reference list has a test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conformance.reference import PEER_TESTS, SYMPTOMS


def names_given(decorator):
    """The names that the suite's files hand to a decorator, whether or not they are selected."""
    trees = [ast.parse(file.read_text("utf-8")) for file in Path(__file__).parent.glob("test_*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == decorator
    }


@pytest.mark.parametrize(("decorator", "names"), [("peer", PEER_TESTS), ("symptom", SYMPTOMS)])
def test_every_name_of_the_reference_list_has_a_test(decorator, names):
    assert names_given(decorator) == set(names)

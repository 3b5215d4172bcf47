"""Model names are compared as Ollama compares them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_core.model_name import canonical_model_name, is_model_in


@pytest.mark.parametrize(
    "spelling",
    [
        "llama3",
        "Llama3",
        "llama3:latest",
        "LLAMA3:LATEST",
        "library/llama3",
        "registry.ollama.ai/library/llama3",
        "registry.ollama.ai/library/llama3:latest",
        " llama3 ",
    ],
)
def test_all_spellings_of_a_model_are_one(spelling: str) -> None:
    assert canonical_model_name(spelling) == "llama3:latest"
    assert is_model_in(spelling, ["other", "llama3"])
    assert is_model_in("llama3", [spelling])


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("llama3:8b", "llama3:8b"),
        ("me/llama3", "me/llama3:latest"),
        ("localhost:5000/library/llama3", "localhost:5000/library/llama3:latest"),
        ("localhost:5000/me/llama3:8b", "localhost:5000/me/llama3:8b"),
        ("hf.co/Org/Model:Q4_K_M", "hf.co/org/model:q4_k_m"),
        ("registry.ollama.ai/me/llama3", "me/llama3:latest"),
    ],
)
def test_what_is_not_default_is_kept(name: str, canonical: str) -> None:
    assert canonical_model_name(name) == canonical


@pytest.mark.parametrize("other", ["llama3:8b", "me/llama3", "llama3.1", "llama"])
def test_another_model_is_another(other: str) -> None:
    assert not is_model_in(other, ["llama3"])


@given(st.text(alphabet="aB/:.3 ", max_size=20))
def test_a_canonical_name_is_its_own(name: str) -> None:
    once = canonical_model_name(name)
    assert canonical_model_name(once) == once
